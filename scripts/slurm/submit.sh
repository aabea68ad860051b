#!/usr/bin/env bash
# Queues a conversion in parts, and the join behind it:
#   submit.sh [--array] [--parts N] [--minutes M] [--rate MB/s] [--sbatch WORD]... CKPT OUT [OPTIONS of mimo-convert]
# Number, memory and time of the parts are chosen from a dry run (scripts/job_size.py); --sbatch passes a word on to
# sbatch, for both jobs: --sbatch --partition=cpu. Prints the ids of both jobs: "PARTS JOIN".
set -euo pipefail

usage() {
  sed -n '2,/^set -e/{/^set -e/d; s/^# \{0,1\}//; p}' "$0" >&2
  exit 2
}

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
size=$here/../job_size.py
job=steps form=slurm sizes=() words=()
while (($#)); do
  case $1 in
    --array) job=array form=array; shift ;;
    --parts | --minutes | --rate) (($# >= 2)) || usage; sizes+=("$1" "$2"); shift 2 ;;
    --sbatch) (($# >= 2)) || usage; words+=("$2"); shift 2 ;;
    -*) usage ;;
    *) break ;;
  esac
done
(($# >= 2)) || usage
checkpoint=$1 out=$2
shift 2

chosen=$(python3 "$size" --for "$form" "${sizes[@]}" "$checkpoint" "$@")
read -ra chosen <<<"$chosen"
parts=$(sbatch --parsable "${chosen[@]}" "${words[@]}" "$here/$job.sbatch" "$checkpoint" "$out" "$@")
parts=${parts%%;*} # without the cluster's name
join=$(sbatch --parsable --dependency="afterok:$parts" --kill-on-invalid-dep=yes "${words[@]}" "$here/join.sbatch" "$out")
echo "$parts ${join%%;*}"
