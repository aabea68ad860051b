#!/usr/bin/env bash
# Re-quantizes a checkpoint in CI and lets thresholds decide:
#   requantize.sh CKPT OUT RECIPE [--min-sqnr ROLE=dB ...] [other options of mimo-convert]
#
# Converts CKPT by RECIPE (a name of docs/recipes.md, or a JSON file) with an error report, then verifies what was
# written (mimo-verify check). Leaves either
#   OUT            accepted: every threshold holds, every hash is right; or
#   OUT.rejected   a threshold or the check failed: the whole data, for inspection. Replaces an older one.
# with OUT.report.json or OUT.rejected.report.json (schemas/report.schema.json) beside it: an output holds what its manifest
# names, and nothing else. While it works the data lies in OUT.partial; a run that
# fails leaves that for the same command to resume. OUT must not exist, or be empty.
#
# Exit codes are those of mimo-convert: 0 accepted, 1 rejected, 2 usage, 3 bad checkpoint, 4 I/O (may be retried), 5 device.
# The tools are taken from $MIMO_BIN, else from this script's folder (where cmake --install puts both), else from the build of
# this checkout (that of scripts/build.sh, else that of scripts/demo.sh), else from PATH.
set -euo pipefail

usage() {
  sed -n '2,/^set -e/{/^set -e/d; s/^# \{0,1\}//; p}' "$0" >&2
  exit 2
}

say() { echo "requantize: $*" >&2; }

(($# >= 3)) || usage
checkpoint=$1 out=${2%/} recipe=$3
shift 3
[[ -n $out ]] || usage

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
for folder in "$here" "$here/../build/release/tools" "$here/../build/demo/tools"; do
  if [[ -z ${MIMO_BIN:-} && -x $folder/mimo-convert ]]; then
    MIMO_BIN=$folder
  fi
done
if [[ -n ${MIMO_BIN:-} ]]; then
  PATH=$MIMO_BIN:$PATH
fi
if ! command -v mimo-convert >/dev/null || ! command -v mimo-verify >/dev/null; then
  say "mimo-convert and mimo-verify are neither in ${MIMO_BIN:-$here} nor on PATH: build them, or set MIMO_BIN"
  exit 2
fi

partial=$out.partial
rejected=$out.rejected
report=$out.partial.report.json
if [[ -e $out && ( ! -d $out || -n $(ls -A "$out") ) ]]; then
  say "$out exists: remove it, or name another output"
  exit 2
fi

again=()
if [[ -f $partial/mimo-manifest.json && ! -f $report ]]; then
  rm -rf "$partial" # complete, but its errors are lost: measure again
fi
if [[ -d $partial ]]; then
  say "resuming $partial"
  again=(--resume)
fi

code=0
mimo-convert "$checkpoint" "$partial" --recipe "$recipe" --error-report --report "$report" "${again[@]}" "$@" || code=$?
if ((code > 1)) || [[ ! -f $partial/mimo-manifest.json ]]; then
  rmdir "$partial" 2>/dev/null || true # where nothing was written
  say "failed with exit code $code"
  exit "$code"
fi

verified=0
mimo-verify check "$partial" || verified=$?
if ((verified > 1)); then
  say "the check could not be made: exit code $verified; $partial is kept"
  exit "$verified"
fi

rm -rf "$rejected" "$rejected.report.json"
if ((code == 0 && verified == 0)); then
  if [[ -d $out ]]; then
    rmdir "$out"
  fi
  mv "$partial" "$out"
  mv "$report" "$out.report.json"
  say "accepted: $out"
  exit 0
fi
mv "$partial" "$rejected"
mv "$report" "$rejected.report.json"
say "rejected: $rejected ($rejected.report.json says which tensors)"
exit 1
