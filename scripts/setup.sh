#!/usr/bin/env bash
# Installs what the build and the tests need and the machine lacks: system packages (Debian/Ubuntu, as root or with sudo) and a
# Python environment in .venv for the tests. Does nothing when all is there. `setup.sh build` leaves the Python part out.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A package_of=(
  [g++]=g++ [cmake]=cmake [ninja]=ninja-build [python3]=python3 [git]=git
)
declare -A package_of_header=(
  [CLI/CLI.hpp]=libcli11-dev [nlohmann/json.hpp]=nlohmann-json3-dev [xxhash.h]=libxxhash-dev [gtest/gtest.h]=libgtest-dev
  [simde/x86/avx512.h]=libsimde-dev
)

missing=()
for tool in "${!package_of[@]}"; do
  command -v "$tool" >/dev/null 2>&1 || missing+=("${package_of[$tool]}")
done
for header in "${!package_of_header[@]}"; do
  [[ -e /usr/include/$header || -e /usr/local/include/$header ]] || missing+=("${package_of_header[$header]}")
done
if ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
  missing+=(python3-venv)
fi

if ((${#missing[@]})); then
  echo "setup: installing ${missing[*]}"
  sudo=()
  if [[ $EUID -ne 0 ]]; then
    sudo=(sudo)
  fi
  export DEBIAN_FRONTEND=noninteractive
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [[ ${1:-all} != build ]]; then
  if [[ ! -x .venv/bin/python3 ]]; then
    python3 -m venv .venv
  fi
  if ! .venv/bin/python3 -c 'import numpy, safetensors, jsonschema' >/dev/null 2>&1; then
    echo "setup: installing numpy, safetensors and jsonschema into .venv"
    .venv/bin/python3 -m pip install -q --disable-pip-version-check numpy safetensors jsonschema
  fi
  # The interop tests read outputs with torch where it is wanted: large, so by request only.
  if [[ ${MIMO_INTEROP_TORCH:-0} == 1 ]] && ! .venv/bin/python3 -c 'import torch' >/dev/null 2>&1; then
    echo "setup: installing torch into .venv"
    .venv/bin/python3 -m pip install -q --disable-pip-version-check torch
  fi
fi
