#!/usr/bin/env bash
# Builds the fuzz targets (clang, address and undefined-behaviour sanitizers) and runs them one after the other:
#   fuzz.sh [--runs N] [--seconds S] [--max-len L] [--stack KB] [TARGET...]
#     --runs N      inputs in all, shared out evenly among the targets (100 000)
#     --seconds S   instead: how long each target runs
#     --max-len L   the longest input in bytes (4096)
#     --stack KB    the stack of every process (the system's)
#     TARGET        fuzz_json, fuzz_plan ...; all of tests/fuzz without
# Inputs to begin with are made by the tools (tests/fuzz/seeds.py); what a target learns is kept in build/fuzz-corpus/TARGET and
# taken up again. Logs lie in build/fuzz-corpus/logs. Exit 0 when nothing was found, 1 when something was: its input lies beside
# the log as TARGET-crash-..., TARGET-timeout-... or the like, and build/fuzz/tests/TARGET FILE shows it again.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=100000 seconds='' length=4096 stack='' targets=()
while (($#)); do
  case $1 in
    --runs) runs=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --max-len) length=$2; shift ;;
    --stack) stack=$2; shift ;;
    fuzz_*) targets+=("$1") ;;
    *) sed -n '2,/^set -e/{/^set -e/d; s/^# \{0,1\}//; p}' "$0" >&2; exit 2 ;;
  esac
  shift
done

scripts/build.sh fuzz -DMIMO_TESTS=OFF -DMIMO_BENCH=OFF
if ((${#targets[@]} == 0)); then
  mapfile -t targets < <(basename -a -s .cc tests/fuzz/fuzz_*.cc)
fi
corpus=build/fuzz-corpus
if [[ ! -d $corpus/seeds ]]; then
  python3 tests/fuzz/seeds.py build/fuzz/tools "$corpus/seeds.new"
  mv "$corpus/seeds.new" "$corpus/seeds"
fi
mkdir -p "$corpus/logs"
if [[ -n $stack ]]; then
  ulimit -s "$stack"
fi

found=0
for target in "${targets[@]}"; do
  mkdir -p "$corpus/$target" "$corpus/seeds/$target"
  log=$corpus/logs/$target.log
  options=("-max_len=$length" -timeout=25 -rss_limit_mb=4096 -print_final_stats=1 "-artifact_prefix=$corpus/logs/$target-")
  if [[ -n $seconds ]]; then
    options+=("-max_total_time=$seconds")
  else
    options+=("-runs=$((runs / ${#targets[@]}))")
  fi
  code=0
  build/fuzz/tests/"$target" "${options[@]}" "$corpus/$target" "$corpus/seeds/$target" >"$log" 2>&1 || code=$?
  echo "$target: exit $code, $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs of up to $length bytes"
  if ((code != 0)); then
    found=1
    grep -aE -m 5 'SUMMARY|ERROR|deadly|Test unit' "$log" || true  # nothing where the system has ended it
  fi
done
exit "$found"
