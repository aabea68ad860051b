#!/usr/bin/env bash
# Builds a preset of CMakePresets.json into build/PRESET:
#   build.sh [PRESET] [ARGUMENT...]     PRESET: release unless named; arguments go to cmake, e.g. -DMIMO_CUDA=OFF
# MIMO_WERROR=ON makes warnings errors (docs/building.md). What a preset does not name keeps the value of the last time.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=release
if [[ ${1:--} != -* ]]; then
  preset=$1
  shift
fi
launcher=$(command -v ccache || true)
options=("-DCMAKE_CXX_COMPILER_LAUNCHER=$launcher" "-DCMAKE_CUDA_COMPILER_LAUNCHER=$launcher")
if [[ -n ${MIMO_WERROR:-} ]]; then
  options+=("-DMIMO_WERROR=$MIMO_WERROR")
fi
cmake --preset "$preset" "${options[@]}" "$@" >/dev/null
cmake --build --preset "$preset"
