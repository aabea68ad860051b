#!/usr/bin/env bash
# Builds into build/release. Arguments go to cmake, e.g. -DMIMO_CUDA=OFF.
set -euo pipefail
cd "$(dirname "$0")/.."
launcher=()
if command -v ccache >/dev/null 2>&1; then
  launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
fi
cmake --preset release "${launcher[@]}" "$@" >/dev/null
cmake --build --preset release
