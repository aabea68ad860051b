#!/usr/bin/env bash
# What reviews should not be about: formatting, shell scripts, clang-tidy, and the unit tests under sanitizers.
#   check.sh [format] [tidy] [asan] [tsan]     all of them by default; a check whose tool is missing is skipped, and says so
set -euo pipefail
cd "$(dirname "$0")/.."
checks=("$@")
((${#checks[@]})) || checks=(format tidy asan tsan)
launcher=()
if command -v ccache >/dev/null 2>&1; then
  launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi

have() {
  command -v "$1" >/dev/null 2>&1 && return
  echo "check: $1 is not installed: skipped"
  return 1
}

format() {
  if have clang-format; then
    git ls-files '*.cc' '*.h' '*.cu' | xargs clang-format --dry-run -Werror
  fi
  if have shellcheck; then
    git ls-files '*.sh' '*.sbatch' .ci/run | xargs shellcheck
  fi
}

tidy() {
  have clang-tidy || return 0
  # Every source with a command of its own.
  cmake -S . -B build/tidy -G Ninja -DMIMO_UNITY=OFF -DMIMO_CUDA=OFF -DMIMO_BENCH=OFF -DMIMO_TESTS=OFF >/dev/null
  # The SIMD sources are left to the compiler's warnings.
  git ls-files 'lib/*.cc' 'tools/*.cc' 'kernels/cpu/convert.cc' 'kernels/cpu/convert_band.cc' 'kernels/cpu/requantize.cc' |
    xargs -P "$(nproc)" -n 4 clang-tidy -p build/tidy --quiet
}

# The unit tests alone: the command-line tests run the release build.
sanitized() {
  cmake --preset "$1" "${launcher[@]}" -DMIMO_BENCH=OFF -DMIMO_WERROR=ON >/dev/null
  cmake --build --preset "$1" --target unit_tests
  ctest --preset "$1" -j "$(nproc)" -E '^(structure|cli|interop|engines|faults)\.'
}
asan() { sanitized asan; }
tsan() { sanitized tsan; }

for check in "${checks[@]}"; do
  echo "== $check"
  "$check"
done
echo "check: all passed"
