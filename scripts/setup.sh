#!/usr/bin/env bash
# Installs what the build and the tests need and the machine lacks: system packages (Debian/Ubuntu, as root or with sudo) and
# Python environments for the tests: .venv, and .venv-interop unless MIMO_INTEROP=0. Does nothing when all is there.
# `setup.sh build` leaves the Python part out.
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
  # The packages whose bytes the interop tests compare ours with. They bring torch with its GPU libraries: 6 GB on disk, some
  # minutes to fetch. MIMO_INTEROP=0 does without them, and those tests are skipped.
  peers=(nvidia-modelopt==0.47.0 compressed-tensors==0.20.0 safetensors numpy requests)
  if [[ ${MIMO_INTEROP:-1} != 0 ]]; then
    if [[ $(cat .venv-interop/installed 2>/dev/null) != "${peers[*]}" ]]; then
      echo "setup: installing ${peers[*]} into .venv-interop (MIMO_INTEROP=0 leaves them out)"
      python3 -m venv .venv-interop
      if ! .venv-interop/bin/python3 -m pip install -q --disable-pip-version-check --no-cache-dir "${peers[@]}"; then
        echo "setup: the interop packages cannot be installed; set MIMO_INTEROP=0 to build and test without them" >&2
        exit 1
      fi
      echo "${peers[*]}" >.venv-interop/installed
    fi
  fi
fi
