#!/usr/bin/env bash
# Builds with CUDA on a machine that has a GPU, a compiler and CMake but neither network nor packages, and checks everything that
# needs the GPU: unit tests, compute-sanitizer, benchmarks, and mimo-convert --device cuda against --device cpu.
#   scripts/gpu_check.sh --prepare      where the packages are: copies the headers and four libraries to .carry/
#   scripts/gpu_check.sh [--out DIR]    on the GPU machine; logs and figures go to DIR (default build/gpu-check)
# Exit 0 when every check passed, 1 otherwise, 2 for usage.
# shellcheck disable=SC2317  # most functions are called through check
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
carry=$root/.carry
out=$root/build/gpu-check

usage() {
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

prepare() {
  set -e
  local from
  rm -rf "$carry"
  mkdir -p "$carry/include" "$carry/share/cmake" "$carry/src"
  for from in CLI nlohmann re2 xxhash.h xxh3.h libdeflate.h simdjson.h zlib.h zconf.h; do
    cp -RL "$(find /usr/include -maxdepth 2 -name "$from" -print -quit)" "$carry/include/"
  done
  mkdir -p "$carry/lib"
  for from in libdeflate.a libre2.a libz.a; do
    cp -L "$(find /usr/lib -name "$from" -print -quit)" "$carry/lib/"
  done
  cp -L "$(dirname "$(find /usr/lib -name libsimdjson.so -print -quit)")"/libsimdjson.so* "$carry/lib/"  # Debian has no static one
  for from in CLI11 nlohmann_json; do
    cp -RL "/usr/share/cmake/$from" "$carry/share/cmake/"
  done
  cp -RL /usr/src/googletest "$carry/src/googletest"
  du -sh "$carry"
}

while [ $# -gt 0 ]; do
  case $1 in
    --prepare) prepare; exit 0 ;;
    --out) [ $# -ge 2 ] || usage; out=$2; shift 2 ;;
    *) usage ;;
  esac
done

mkdir -p "$out"
out=$(cd "$out" && pwd)
build=$out/build
jobs=$(nproc)
results=()
failed=0

# check NAME LOG COMMAND...: runs it with its output in LOG, and notes PASS or FAIL.
check() {
  local name=$1 log=$out/$2
  shift 2
  local begin=$SECONDS
  if "$@" >"$log" 2>&1; then
    results+=("PASS  $name  ($((SECONDS - begin)) s)")
  else
    results+=("FAIL  $name  ($((SECONDS - begin)) s): see $log")
    failed=1
    tail -n 15 "$log" >&2
    return 1
  fi
}

# What matters of the benchmarks: the fraction of the device's copy bandwidth.
table() {
  [ -s "$out/bench_encode.txt" ] || return 0
  echo
  head -n 1 "$out/bench_encode.txt"
  local name
  for name in 'copy (device)' 'fp8 -> bf16' 'fp8 -> nvfp4 max' 'bf16 -> nvfp4 max' 'fp8 -> mxfp4' 'fp8 -> mxfp8' \
    'bf16 -> mxfp8' 'fp8 -> nvfp4 four-over-six' 'fp8 -> nvfp4 sweep'; do
    grep -F "$name  " "$out/bench_encode.txt" || echo "$name: not measured"
  done
}

summary() {
  echo
  echo "---- gpu_check ----"
  printf '%s\n' "${results[@]}"
  if [ -s "$out/bench.txt" ]; then
    echo
    cat "$out/bench.txt"
  fi
  table
  exit "$failed"
}

command -v nvcc >/dev/null || PATH=$PATH:/usr/local/cuda/bin
generator=()
if command -v ninja >/dev/null; then generator=(-G Ninja); fi

configure() {
  local prefix=$build/prefix
  if [ -d "$carry/src/googletest" ]; then
    cmake -S "$carry/src/googletest" -B "$build/googletest" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DBUILD_GMOCK=OFF \
      -DCMAKE_INSTALL_PREFIX="$prefix" &&
      cmake --build "$build/googletest" --parallel "$jobs" &&
      cmake --install "$build/googletest" || return 1
  fi
  cmake -S "$root" -B "$build/mimo" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DMIMO_CUDA=ON \
    -DCMAKE_CUDA_ARCHITECTURES="${CUDA_ARCHITECTURES:-native}" -DCMAKE_PREFIX_PATH="$prefix;$carry" \
    -DXXHASH_INCLUDE_DIR="$xxhash"
}

# Tests that find no device skip; here that is a failure.
cuda_tests_ran() {
  local suite
  for suite in ConvertCuda EncodeCuda; do
    grep -q "OK \] $suite\." "$out/test_kernels.log" || return 1
    ! grep -q "SKIPPED \] $suite\." "$out/test_kernels.log" || return 1
  done
}

sanitize() {
  compute-sanitizer --tool "$1" --error-exitcode 9 "$tests/test_kernels" \
    --gtest_filter='ConvertCuda.*:EncodeCuda.RunsOfDifferentSources:EncodeCuda.DevicePointers'
}

bench() {
  "$tests/bench_convert" --device all >"$out/bench.txt"
}

bench_encode() {
  "$tests/bench_encode_cuda" >"$out/bench_encode.txt"
}

# The same checkpoint with both devices: every tensor file equal, byte for byte.
#   compare_devices OPTION...      of $preset; --like alone stands for a run that goes back to it
preset=mimo-v2.5
compare_devices() {
  local work=$build/convert device file compared=0
  rm -rf "$work"
  mkdir -p "$work"
  "$tools/mimo-synth" "$preset" "$work/source" --layers 3 --experts 4 --hidden 1024 || return 1
  local from=$work/source
  if [ "$1" = --like ]; then  # back from Megatron, under the scales of the source
    "$tools/mimo-convert" "$from" "$work/run" --to megatron || return 1
    from=$work/run
    set -- --like "$work/source" "${@:2}"
  fi
  for device in cpu cuda; do
    "$tools/mimo-convert" "$from" "$work/$device" "$@" --device "$device" || return 1
  done
  while IFS= read -r -d '' file; do
    cmp "$file" "$work/cuda/${file#"$work/cpu/"}" || return 1
    compared=$((compared + 1))
  done < <(find "$work/cpu" \( -name '*.safetensors' -o -name '*.distcp' \) -print0)
  echo "$compared files equal"
  [ "$compared" -gt 0 ]
}

xxhash=/usr/include
if [ -f "$carry/include/xxhash.h" ]; then xxhash=$carry/include; fi
check "configure" configure.log configure || summary
tests=$build/mimo/tests
tools=$build/mimo/tools
check "build kernels, tests, bench" build.log cmake --build "$build/mimo" --parallel "$jobs" --target test_kernels bench_convert bench_encode_cuda || summary
check "test_kernels" test_kernels.log "$tests/test_kernels"
check "CUDA tests ran" ran.log cuda_tests_ran
if command -v compute-sanitizer >/dev/null; then
  check "memcheck" memcheck.log sanitize memcheck
  check "racecheck" racecheck.log sanitize racecheck
else
  results+=("SKIP  compute-sanitizer is not installed")
fi
check "bench_convert" bench.log bench
check "bench_encode_cuda" bench_encode.log bench_encode
if check "build tools" tools.log cmake --build "$build/mimo" --parallel "$jobs" --target mimo-synth mimo-convert; then
  check "mimo-convert --dtype bf16: cuda equals cpu" convert.log compare_devices --dtype bf16 --qkv split
  check "mimo-convert --dtype nvfp4: cuda equals cpu" nvfp4.log compare_devices --dtype nvfp4
  check "mimo-convert --to nxdi: cuda equals cpu" nxdi.log compare_devices --to nxdi
  check "mimo-convert --to megatron: cuda equals cpu" megatron.log compare_devices --to megatron
  check "mimo-convert --like, sticky: cuda equals cpu" like.log compare_devices --like
  check "mimo-convert --like, fresh: cuda equals cpu" like_fresh.log compare_devices --like --scale-policy fresh
  preset=mimo-v2.6-flash check "mimo-convert --like, MXFP4: cuda equals cpu" like_mxfp4.log compare_devices --like
  check "mimo-convert rank files: cuda equals cpu" ranks.log compare_devices --to vllm --format sharded-state --tp 4
  check "mimo-convert rank files, NVFP4: cuda equals cpu" ranks_nvfp4.log compare_devices --to vllm --format sharded-state \
    --tp 4 --dtype nvfp4
fi
summary
