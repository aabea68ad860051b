#!/usr/bin/env bash
# Runs conversions in parts under real launchers and holds what they make to what one process makes, byte for byte:
#   scripts/test_launchers.sh [slurm] [mpi] [torchrun] [pods]     all of them by default; as root, on Debian or Ubuntu
#
# slurm     a Slurm of one node, started here: a step (submit.sh), an array of which elements are killed and requeued
#           (submit.sh --array), a step in an array, a job that is out of time, a join that depends on them
# mpi       mpirun -n 4 of Open MPI
# torchrun  torchrun -n 4, and again under torchrun's own restart; skipped where no torch is found
# pods      the contract of an Indexed Job: JOB_COMPLETION_INDEX, a pod that is killed and started again
#
# Installs slurmctld, slurmd, slurm-client, munge and openmpi-bin where they are missing. By hand, not in CI. Tools: $MIMO_BIN,
# else build/release/tools. Everything it starts and writes is gone when it ends; MIMO_KEEP=1 leaves the files.
# shellcheck disable=SC2317  # functions are called by name
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
tools=$(cd "${MIMO_BIN:-$root/build/release/tools}" && pwd)
export MIMO_BIN=$tools PATH=$tools:$PATH
for name in $(compgen -e); do
  case $name in
    SLURM* | SBATCH* | OMPI_* | PMI_* | PMIX_* | RANK | WORLD_SIZE | JOB_COMPLETION_INDEX | MIMO_CONVERT_*) unset "$name" ;;
  esac
done

work=$(mktemp -d /tmp/mimo-launchers-XXXXXX)
started=()   # process ids of daemons, by the files in which they leave them
failed=0

finish() {
  local file pid
  if [[ -n ${SLURM_CONF:-} ]]; then
    scancel --user=root 2>/dev/null || true
  fi
  for file in "${started[@]}"; do
    if pid=$(cat "$file" 2>/dev/null) && kill "$pid" 2>/dev/null; then
      for _ in {1..50}; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.2
      done
    fi
  done
  if [[ -n ${MIMO_KEEP:-} ]]; then
    echo "files are in $work"
  else
    rm -rf "$work"
  fi
}
trap finish EXIT

say() { echo "== $*"; }
seen() { echo "   $*"; }
fail() {
  echo "   FAILED: $*"
  failed=1
}

need() { # PROGRAM PACKAGE...
  command -v "$1" >/dev/null 2>&1 && return
  shift
  echo "installing $*"
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >"$work/apt.log" 2>&1 ||
    { tail -5 "$work/apt.log"; exit 4; }
}

# ---- what is converted: the options by name, and what one process makes of them

declare -A jobs=(
  [values]="--dtype bf16 --qkv split"
  [nvfp4]="--recipe nvfp4 --error-report"
  [ranks]="--to vllm --format sharded-state --tp 4"
  [megatron]="--to megatron"
  [like]="--to hf --like $work/ckpt"
)
source_of() { [[ $1 == like ]] && echo "$work/run" || echo "$work/ckpt"; }

make_sources() {
  mimo-synth mimo-v2.5 "$work/ckpt" --layers 2 --experts 4 --hidden 1024 --moe-intermediate 512 --intermediate 512 \
    --vocab 4096 --no-towers --quiet
  mimo-convert "$work/ckpt" "$work/run" --to megatron --quiet 2>/dev/null
  local job
  for job in "${!jobs[@]}"; do
    # shellcheck disable=SC2086  # words
    mimo-convert "$(source_of "$job")" "$work/whole-$job" ${jobs[$job]} --quiet 2>"$work/whole.log" ||
      { cat "$work/whole.log"; exit 1; }
  done
  seen "$(mimo-convert --version | head -1), checkpoint of $(du -sm "$work/ckpt" | cut -f1) MB, on $(nproc) CPUs"
}

compare() { # NAME JOB OUT SECONDS
  if diff -r "$work/whole-$2" "$3" >"$work/diff" 2>&1 && [[ ! -e $3/.mimo-partial ]]; then
    seen "$1: $2: the bytes of one process ($4 s)"
  else
    fail "$1: $2: $(head -3 "$work/diff")"
  fi
  rm -rf "$3"
}

# ---- Slurm

start_slurm() {
  need slurmctld slurmctld slurmd slurm-client munge
  local dir=$work/slurm host
  host=$(hostname -s)
  mkdir -p "$dir/state" "$dir/spool" "$dir/munge"
  chmod 755 "$work" "$dir"
  chmod 700 "$dir/munge"
  head -c 1024 /dev/urandom >"$dir/munge/key"
  chmod 400 "$dir/munge/key"
  munged --force --key-file="$dir/munge/key" --socket="$dir/munge.sock" --pid-file="$dir/munge/pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" 2>"$dir/munge/errors"
  started+=("$dir/munge/pid")
  cat >"$dir/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.sock,cred_expire=5
CryptoType=crypto/munge
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=16 RealMemory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo) State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
  export SLURM_CONF=$dir/slurm.conf
  slurmctld -f "$SLURM_CONF"
  started+=("$dir/slurmctld.pid")
  slurmd -f "$SLURM_CONF"
  started+=("$dir/slurmd.pid")
  for _ in {1..60}; do
    [[ $(sinfo -h -o %T 2>/dev/null) == idle ]] && break
    sleep 0.5
  done
  seen "$(slurmctld -V), node $(sinfo -h -o '%N %T')"
}

# Waits for jobs to leave the queue. -> 0 when all of them ended well
wait_for() {
  local id states
  for id in "$@"; do
    for _ in {1..1200}; do
      states=$(scontrol show job "$id" -o 2>/dev/null | grep -o 'JobState=[A-Z_]*' | sort -u)
      if [[ -z $states ]] || ! grep -qvE 'COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL' <<<"$states"; then
        break
      fi
      sleep 0.25
    done
    if [[ $states != JobState=COMPLETED ]]; then
      seen "job $id: ${states//$'\n'/ }"
      return 1
    fi
  done
}

submit() { # [--array] NAME JOB OUT: parts and join -> their ids
  local flags=()
  if [[ $1 == --array ]]; then
    flags=(--array)
    shift
  fi
  # shellcheck disable=SC2086  # words
  MIMO_CONVERT_UNIT_SIZE=$unit "$root/scripts/slurm/submit.sh" "${flags[@]}" --parts 4 --sbatch --cpus-per-task=2 \
    --sbatch --ntasks-per-node=4 --sbatch --mem=1G --sbatch "--output=$work/log-$1-$2-%j.txt" "$(source_of "$2")" "$3" ${jobs[$2]} 2>"$work/submit.log" ||
    { cat "$work/submit.log" >&2; return 1; }
}

slurm_steps() {
  local job ids began
  for job in "${!jobs[@]}"; do
    began=$SECONDS
    read -ra ids <<<"$(submit step "$job" "$work/out")"
    wait_for "${ids[@]}" || fail "step: $job: $(tail -n 3 "$work"/log-step-"$job"-*)"
    grep -hom1 'part ., by.*\|part ./., by.*' "$work/log-step-$job-${ids[0]}.txt" | head -1 | sed "s/^/   /"
    compare "srun, 4 tasks" "$job" "$work/out" $((SECONDS - began))
  done
}

# Until somebody has made a unit.
wait_for_units() {
  for _ in {1..3000}; do
    if compgen -G "$work/out/.mimo-partial/units/*.json" >/dev/null; then
      return
    fi
    sleep 0.02
  done
}

# The process that has the lease of a part of 4.
kill_part() {
  local lease=$work/out/.mimo-partial/parts/$1-of-4.json pid
  for _ in {1..100}; do
    pid=$(grep -o '"pid": [0-9]*' "$lease" 2>/dev/null | grep -o '[0-9]*') || true
    if [[ -n $pid ]]; then
      kill -KILL "$pid" 2>/dev/null
      return
    fi
    sleep 0.02
  done
  return 1
}

# Elements are killed, requeued by us and by themselves, and told to stop, while others go on.
slurm_arrays() {
  local job ids began
  for job in "${!jobs[@]}"; do
    began=$SECONDS
    read -ra ids <<<"$(unit=200000 submit --array array "$job" "$work/out")"
    wait_for_units
    scontrol requeue "${ids[0]}_1" 2>/dev/null || seen "element 1 had ended before it could be requeued"
    scancel --signal=TERM "${ids[0]}_2" 2>/dev/null || seen "element 2 had ended before it could be stopped"
    kill_part 3 || seen "element 3 had ended before it could be killed"
    wait_for "${ids[@]}" || fail "array: $job: $(tail -qn 2 "$work"/log-array-"$job"-*)"
    seen "queued again: $(cat "$work"/log-array-"$job"-*.txt | grep -c 'queued again') by their script;" \
      "restarts: $(scontrol show job "${ids[0]}" | grep -o 'Restarts=[0-9]*' | tr '\n' ' ')"
    compare "array of 4" "$job" "$work/out" $((SECONDS - began))
  done
}

# Every element has a step of two: 2 x 2 parts.
slurm_nested() {
  local ids began=$SECONDS
  cat >"$work/nested.sh" <<END
#!/bin/bash
srun --ntasks=2 mimo-convert $work/ckpt $work/out ${jobs[values]} --part auto --unit-size 1MB --no-progress
END
  ids=$(sbatch --parsable --array=0-1 --ntasks=2 --output="$work/log-nested-%a.txt" "$work/nested.sh")
  wait_for "$ids" || fail "nested: $(tail -qn 2 "$work"/log-nested-*)"
  grep -ho 'part [0-3]/4, by.*' "$work"/log-nested-* | sort | sed 's/^/   /'
  mimo-convert --join "$work/out" --quiet || fail "nested: join"
  compare "2 elements of 2 tasks" values "$work/out" $((SECONDS - began))
}

# A batch script is no part, though Slurm sets SLURM_PROCID there; and it has what a step has left behind that submitted it.
slurm_batch() {
  local id code
  cat >"$work/batch.sh" <<END
#!/bin/bash
env | grep -E '^SLURM_(PROCID|STEP_ID|STEP_NUM_TASKS|NTASKS)=' | sort | tr '\n' ' '
mimo-convert $work/ckpt $work/out ${jobs[values]} --part auto --quiet 2>/dev/null
echo "exit \$?"
END
  id=$(sbatch --parsable --ntasks=3 --output="$work/log-batch-a.txt" "$work/batch.sh")
  srun --ntasks=4 --quiet bash -c "[[ \$SLURM_PROCID != 1 ]] || sbatch --parsable --ntasks=1 --output=$work/log-batch-b.txt $work/batch.sh" \
    >"$work/id" 2>/dev/null
  wait_for "$id" "$(cat "$work/id")" || true
  for code in a b; do
    seen "batch script: $(cat "$work/log-batch-$code.txt")"
    grep -q 'exit 2' "$work/log-batch-$code.txt" || fail "a batch script took itself for a part"
  done
}

# Out of time: --signal tells parts to stop, the job queues itself, and goes on.
slurm_time() {
  local ids began=$SECONDS
  unit=100000 submit step values "$work/out" >"$work/ids"
  read -ra ids <"$work/ids"
  wait_for_units
  scancel --signal=TERM "${ids[0]}" # what Slurm does itself, 120 s before the end
  wait_for "${ids[@]}" || fail "out of time: $(tail -qn 3 "$work"/log-step-values-*)"
  seen "$(grep -h 'queued again' "$work/log-step-values-${ids[0]}.txt" || echo 'ended before it could be stopped')"
  compare "srun, stopped and queued again" values "$work/out" $((SECONDS - began))
}

slurm() {
  say "Slurm"
  start_slurm
  unit=1MB
  slurm_steps
  slurm_arrays
  slurm_nested
  slurm_batch
  slurm_time
}

# ---- others

join() { # NAME JOB BEGAN
  mimo-convert --join "$work/out" --quiet >/dev/null || fail "$1: $2: join"
  compare "$1" "$2" "$work/out" $((SECONDS - $3))
}

mpi() {
  say "Open MPI"
  need mpirun openmpi-bin
  seen "$(mpirun --version | head -1)"
  local job began
  for job in "${!jobs[@]}"; do
    began=$SECONDS
    # shellcheck disable=SC2086  # words
    mpirun --allow-run-as-root --oversubscribe -n 4 mimo-convert "$(source_of "$job")" "$work/out" ${jobs[$job]} --part auto \
      --unit-size 1MB --threads 1 --no-progress >"$work/log-mpi.txt" 2>&1 || fail "mpirun: $job: $(tail -n 3 "$work/log-mpi.txt")"
    grep -o 'part ./4, by.*' "$work/log-mpi.txt" | sort | head -1 | sed 's/^/   /'
    join "mpirun -n 4" "$job" "$began"
  done
}

torchrun() {
  say "torchrun"
  local python job began
  for python in ${MIMO_PYTHON:-} "$root/.venv-interop/bin/python3" "${MIMO_VENVS:-$root}/.venv-interop/bin/python3" python3; do
    if "$python" -c 'import torch.distributed.run' 2>/dev/null; then
      break
    fi
    python=
  done
  if [[ -z $python ]]; then
    seen "skipped: no interpreter here has torch (scripts/setup.sh makes .venv-interop)"
    return
  fi
  seen "torch $("$python" -c 'import torch; print(torch.__version__)')"
  for job in "${!jobs[@]}"; do
    began=$SECONDS
    # shellcheck disable=SC2086  # words
    "$python" -m torch.distributed.run --standalone --nproc-per-node 4 --no-python mimo-convert "$(source_of "$job")" \
      "$work/out" ${jobs[$job]} --part auto --unit-size 1MB --threads 1 --no-progress >"$work/log-torch.txt" 2>&1 ||
      fail "torchrun: $job: $(tail -n 3 "$work/log-torch.txt")"
    grep -o 'part ./4, by.*' "$work/log-torch.txt" | sort | head -1 | sed 's/^/   /'
    join "torchrun -n 4" "$job" "$began"
  done
  # One that fails once: torchrun starts all four again, as a later start of the same run.
  cat >"$work/once.sh" <<END
#!/bin/bash
if [[ \$RANK == 2 && \$TORCHELASTIC_RESTART_COUNT == 0 ]]; then sleep 0.5; exit 4; fi
exec mimo-convert $work/ckpt $work/out ${jobs[values]} --part auto --unit-size 100000 --threads 1 --no-progress
END
  chmod +x "$work/once.sh"
  began=$SECONDS
  "$python" -m torch.distributed.run --standalone --nproc-per-node 4 --max-restarts 3 --no-python "$work/once.sh" \
    >"$work/log-torch.txt" 2>&1 || fail "torchrun with a restart: $(tail -n 3 "$work/log-torch.txt")"
  join "torchrun -n 4, started again" values "$began"
}

# As the kubelet starts a container, and kills it: the environment, the exit code, the same index again.
pods() {
  say "pods of an Indexed Job"
  local job began index code again
  for job in "${!jobs[@]}"; do
    began=$SECONDS again=0
    for index in 2 0 3 1; do
      while true; do
        # shellcheck disable=SC2086  # words
        env JOB_COMPLETION_INDEX="$index" MIMO_CONVERT_PART=auto/4 mimo-convert "$(source_of "$job")" "$work/out" \
          ${jobs[$job]} --unit-size 200000 --no-progress >"$work/log-pod.txt" 2>&1 &
        local pod=$!
        if ((index == 3 && again == 0)); then
          sleep 0.4
          kill -KILL "$pod" 2>/dev/null || true
        fi
        code=0
        wait "$pod" 2>/dev/null || code=$?
        case $code in
          0) break ;;
          1 | 2 | 3) fail "pod $index: $job: exit $code: $(tail -n 2 "$work/log-pod.txt")"; break ;;
          *) again=$((again + 1)) ;;
        esac
      done
    done
    seen "$(head -1 "$work/log-pod.txt"); pods started again: $again"
    join "4 pods" "$job" "$began"
  done
}

((${#@})) || set -- slurm mpi torchrun pods
[[ $(id -u) == 0 ]] || { echo "test_launchers: it installs packages and starts daemons: run it as root" >&2; exit 2; }
say "what one process makes"
make_sources
for what in "$@"; do
  case $what in
    slurm | mpi | torchrun | pods) "$what" ;;
    *) echo "test_launchers: no launcher: $what" >&2; exit 2 ;;
  esac
done
if ((failed)); then
  echo "test_launchers: FAILED"
  exit 1
fi
echo "test_launchers: all passed"
