#!/usr/bin/env bash
# The main job end to end on a synthetic checkpoint: make a small MiMo-V2.5, inspect it, see the plan, convert it to BF16 with split
# QKV, lay it out for TP 8, cut it into rank files and put these together again, make a Megatron checkpoint and give it back to the
# published form, re-quantize its experts to NVFP4, and inspect and verify the results.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh build
scripts/build.sh
tools=$PWD/build/release/tools
work=${1:-build/demo}
rm -rf "$work"
mkdir -p "$work"

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }
PATH=$tools:$PATH
cd "$work"
say mimo-synth mimo-v2.5 MiMo-V2.5 --layers 7 --experts 8 --hidden 1024 --vocab 4096 --intermediate 2048 --moe-intermediate 1024 --no-towers
say mimo-inspect MiMo-V2.5
say mimo-convert MiMo-V2.5 BF16 --dtype bf16 --qkv split --dry-run
say mimo-convert MiMo-V2.5 BF16 --dtype bf16 --qkv split
say mimo-convert MiMo-V2.5 TP8 --to vllm --tp 8 --link hard
say mimo-inspect TP8
say mimo-convert MiMo-V2.5 RANKS --to vllm --format sharded-state --tp 4
say mimo-convert RANKS BACK --to hf
say diff -r --exclude=mimo-manifest.json MiMo-V2.5 BACK
say mimo-convert MiMo-V2.5 MEGATRON --to megatron
say mimo-convert MEGATRON PUBLISHED --like MiMo-V2.5
say diff -r --exclude=mimo-manifest.json MiMo-V2.5 PUBLISHED
say mimo-convert MiMo-V2.5 NVFP4 --dtype nvfp4 --error-report --min-sqnr experts=19
say mimo-verify check NVFP4
