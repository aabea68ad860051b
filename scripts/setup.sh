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

# fetch_engines REQUIREMENT...: the files that tests/harness/engine_stub.py imports, into .venv-interop/engines/NAME.
fetch_engines() {
  local wheels=.venv-interop/wheels
  rm -rf "$wheels" .venv-interop/engines
  .venv-interop/bin/python3 -m pip download -q --disable-pip-version-check --no-cache-dir --no-deps --only-binary=:all: \
    --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --platform manylinux_2_34_x86_64 \
    --platform manylinux_2_28_x86_64 --dest "$wheels" "$@" || return 1
  .venv-interop/bin/python3 - "$wheels" .venv-interop/engines <<'EOF' || return 1
import glob, os, sys, zipfile
quantization = {"vllm": "vllm/model_executor/layers/quantization/", "sglang": "sglang/srt/layers/quantization/"}
files = {
    "vllm": ["vllm/scalar_type.py", "vllm/utils/math_utils.py", "vllm/model_executor/models/mimo_v2.py"]
    + [quantization["vllm"] + f for f in ("base_config.py", "kv_cache.py", "modelopt.py", "utils/quant_utils.py")],
    "sglang": ["sglang/srt/" + f for f in (
        "configs/model_config.py", "layers/modelopt_utils.py", "model_loader/checkpoint_quantization.py",
        "model_loader/weight_utils.py", "models/mimo_v2.py", "models/mimo_v2_nextn.py")]
    + [quantization["sglang"] + f for f in ("base_config.py", "fp8.py", "modelopt_quant.py", "utils.py")],
}
for engine, names in files.items():
    wheel, = glob.glob(os.path.join(sys.argv[1], engine + "-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(os.path.join(sys.argv[2], engine), names)
EOF
  rm -rf "$wheels"
}

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
  # The engines whose config parsers the interop tests run: a few Python files out of each wheel, which are fetched whole
  # (375 MB) and deleted. These wheels whatever the machine is: nothing of them is built or installed.
  engines=(vllm==0.33.0 sglang==0.5.23)
  if [[ ${MIMO_INTEROP:-1} != 0 ]]; then
    if [[ $(cat .venv-interop/installed 2>/dev/null) != "${peers[*]} ${engines[*]}" ]]; then
      echo "setup: installing ${peers[*]} and files of ${engines[*]} into .venv-interop (MIMO_INTEROP=0 leaves them out)"
      python3 -m venv .venv-interop
      if ! .venv-interop/bin/python3 -m pip install -q --disable-pip-version-check --no-cache-dir "${peers[@]}" ||
        ! fetch_engines "${engines[@]}"; then
        echo "setup: the interop packages cannot be installed; set MIMO_INTEROP=0 to build and test without them" >&2
        exit 1
      fi
      echo "${peers[*]} ${engines[*]}" >.venv-interop/installed
    fi
  fi
fi
