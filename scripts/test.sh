#!/usr/bin/env bash
# Builds and runs every test that CI runs; arguments go to ctest, e.g. -R cli. MIMO_STRESS=1 adds the long ones, MIMO_INTEROP=0
# leaves out those that need torch, MIMO_ENGINES=0 those that run an engine (docs/building.md).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
scripts/build.sh
ctest --preset release -j "$(nproc)" "$@"
