#!/usr/bin/env bash
# Builds and runs every test that CI runs. MIMO_STRESS=1 adds the long ones.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
scripts/build.sh
if command -v shellcheck >/dev/null 2>&1; then
  shellcheck scripts/*.sh .ci/run
fi
ctest --preset release -j "$(nproc)" "$@"
