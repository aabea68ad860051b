#!/usr/bin/env bash
# The main job end to end on a synthetic checkpoint: make a small MiMo-V2.5, inspect it, see the plan, convert it to BF16 with split
# QKV, lay it out for TP 8, cut it into rank files and put these together again, make a Megatron checkpoint and give it back to the
# published form, re-quantize its experts to NVFP4, and inspect and verify the results.
#   demo.sh [--cuda] [FOLDER]     FOLDER: where the checkpoints go, build/demo/work unless named; that of an earlier run is replaced
#     --cuda     build the CUDA kernels too; they are used where there is a GPU. It needs nvcc 12 or later
set -euo pipefail
tree=$(cd "$(dirname "$0")/.." && pwd)

usage() {
  sed -n '2,/^set -e/{/^set -e/d; s/^# \{0,1\}//; p}' "$0"
  exit "$1"
}

refuse() {
  echo "demo: $*" >&2
  exit 1
}

cuda=() work=''
while (($#)); do
  case $1 in
    --cuda) cuda=(-DMIMO_CUDA=ON) ;;
    -h | --help) usage 0 ;;
    -*) usage 2 >&2 ;;
    *)
      [[ -z $work ]] || usage 2 >&2
      work=$(realpath -m "$1")
      ;;
  esac
  shift
done
cd "$tree"
build=build/demo
work=${work:-$tree/$build/work}
mark=.made-by-mimo-demo
if [[ -e $work && ! -e $work/$mark && -n $(ls -A "$work" 2>&1) ]]; then
  refuse "$work is not empty, and no demo made it: name another folder"
fi

# The nearest folder of PATH that exists.
existing() {
  local path=$1
  while [[ ! -d $path ]]; do
    path=$(dirname "$path")
  done
  echo "$path"
}

minutes=$((5 / $(nproc) + 1))
missing=$(scripts/setup.sh missing tools)
cat <<TEXT
This builds the four tools${cuda:+, with CUDA,} and takes a synthetic MiMo-V2.5 through the main jobs. It needs
  packages  ${missing:-none: all that is needed is installed}${missing:+ (apt-get installs them, as root or with sudo)}
  disk      400 MB: 60 MB in $build, 340 MB in $work
  time      about $minutes minutes on $(nproc) CPU cores, nearly all of it compiling
TEXT
for folder in "$tree" "$(existing "$work")"; do
  free=$(df --output=avail -m "$folder" | tail -n 1)
  ((free > 500)) || refuse "only $((free)) MB are free where $folder is"
done

scripts/setup.sh tools
scripts/build.sh demo "${cuda[@]}"
PATH=$tree/$build/tools:$PATH
rm -rf "$work"
mkdir -p "$work"
touch "$work/$mark"
cd "$work"

bold='' plain=''
if [[ -t 1 ]]; then
  bold=$'\033[1m' plain=$'\033[0m'
fi
say() { printf "\n$bold\$ %s$plain\n" "$*"; "$@"; }
# The heads are those of the release; the widths are the smallest that 8 ranks share in whole blocks.
say mimo-synth mimo-v2.5 MiMo-V2.5 --layers 6 --experts 4 --hidden 128 --vocab 4096 --intermediate 1024 --moe-intermediate 1024 --no-towers
say mimo-inspect MiMo-V2.5
say mimo-convert MiMo-V2.5 BF16 --dtype bf16 --qkv split --dry-run
say mimo-convert MiMo-V2.5 BF16 --dtype bf16 --qkv split
say mimo-convert MiMo-V2.5 TP8 --to vllm --tp 8 --link hard
say mimo-inspect TP8
say mimo-convert MiMo-V2.5 RANKS --to vllm --format sharded-state --tp 4
say mimo-convert RANKS BACK --to hf
say diff -r --exclude=mimo-manifest.json MiMo-V2.5 BACK
say rm -r BACK
say mimo-convert MiMo-V2.5 MEGATRON --to megatron
say mimo-convert MEGATRON PUBLISHED --like MiMo-V2.5
say diff -r --exclude=mimo-manifest.json MiMo-V2.5 PUBLISHED
say rm -r PUBLISHED
say mimo-convert MiMo-V2.5 NVFP4 --dtype nvfp4 --error-report --min-sqnr experts=19
say mimo-verify check NVFP4

# made FOLDER WHAT
made() { printf '  %-11s %5s  %s\n' "$1" "$(du -sh "$1" | cut -f 1)" "$2"; }
printf '\nMade in %s:\n' "$work"
made MiMo-V2.5 "the synthetic checkpoint, with the layouts and block grids of the release"
made BF16 "its weights in BF16, q, k and v apart: for any engine"
made TP8 "FP8 as it was, laid out for 8 ranks of vLLM; what did not change is linked"
made RANKS "what each of 4 ranks of vLLM holds, a file per rank; put together again it gave the same bytes as MiMo-V2.5"
made MEGATRON "a Megatron checkpoint in torch_dist; in the published form it gave the same bytes as MiMo-V2.5"
made NVFP4 "its experts in NVFP4, the error of each tensor measured"
cat <<TEXT
$(du -sh . | cut -f 1) there, $(du -sh --exclude="${work##*/}" "$tree/$build" | cut -f 1) in $build, in $SECONDS s.

Next, with the tools in $tree/$build/tools:
  mimo-inspect CKPT                       what a checkpoint of yours is, and which engines load it at which TP
  mimo-convert CKPT OUT --to vllm --tp 8 --dry-run     what would be written, and how large
  mimo-synth --list                       other members of the family to try
  README.md says what else they do; scripts/test.sh runs the tests; rm -r $work when done.
TEXT
