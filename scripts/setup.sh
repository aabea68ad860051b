#!/usr/bin/env bash
# Installs what the machine lacks: system packages (Debian and Ubuntu, as root or with sudo) and Python environments.
#   setup.sh           for the build and the tests: packages, .venv, .venv-interop unless MIMO_INTEROP=0, .venv-mlx unless
#                      MIMO_ENGINES=0
#   setup.sh build     the packages alone
#   setup.sh tools     the packages without those that only tests need; what scripts/demo.sh uses
#   setup.sh clang     the packages, and clang with its OpenMP
#   setup.sh missing [tools]     names the packages that are missing, and installs nothing
# Does nothing when all is there. CXX may name another compiler of Debian's, e.g. g++-13.
set -euo pipefail
cd "$(dirname "$0")/.."

part=${1:-all}
only_names=
if [[ $part == missing ]]; then
  only_names=yes
  part=${2:-all}
fi

declare -A package_of=([cmake]=cmake [ninja]=ninja-build [pkg-config]=pkg-config)
case ${CXX:-g++} in
  g++ | g++-[0-9]*) package_of[${CXX:-g++}]=${CXX:-g++} ;;
esac
declare -A package_of_header=(
  [CLI/CLI.hpp]=libcli11-dev [nlohmann/json.hpp]=nlohmann-json3-dev [xxhash.h]=libxxhash-dev [libdeflate.h]=libdeflate-dev
  [zlib.h]=zlib1g-dev [re2/re2.h]=libre2-dev [simdjson.h]=libsimdjson-dev
  [liburing.h]=liburing-dev
)
if [[ $part != tools ]]; then
  package_of+=([python3]=python3 [git]=git)
  package_of_header+=([gtest/gtest.h]=libgtest-dev [simde/x86/avx512.h]=libsimde-dev)
fi
if [[ $part == clang ]]; then
  package_of+=([clang++]=clang)
fi

missing=()
for tool in "${!package_of[@]}"; do
  command -v "$tool" >/dev/null 2>&1 || missing+=("${package_of[$tool]}")
done
for header in "${!package_of_header[@]}"; do
  [[ -e /usr/include/$header || -e /usr/local/include/$header ]] || missing+=("${package_of_header[$header]}")
done
if [[ $part != tools ]] && ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
  missing+=(python3-venv)
fi
if [[ $part == clang ]] && ! echo '#include <omp.h>' | clang++ -fopenmp -fsyntax-only -x c++ - 2>/dev/null; then
  missing+=(libomp-dev)
fi
if ((${#missing[@]})); then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort)
fi
if [[ -n $only_names ]]; then
  echo "${missing[*]}"
  exit 0
fi

# refuse WHY: what is missing, how to get it, and the end.
refuse() {
  echo "setup: $1" >&2
  echo "setup: these packages are missing; then run this again:" >&2
  echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
  TIMEFORMAT=''
  exit 1
}

install() {
  local root=(env DEBIAN_FRONTEND=noninteractive)
  if [[ $EUID -ne 0 ]]; then
    root=(sudo "${root[@]}")
    command -v sudo >/dev/null 2>&1 || refuse "not root, and there is no sudo: ask who is root"
  fi
  command -v apt-get >/dev/null 2>&1 || refuse "no apt-get here: install these by your system's names for them"
  echo "setup: installing ${missing[*]}"
  "${root[@]}" apt-get update -qq || true  # a source of no concern here may be gone
  "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || refuse "apt-get could not do it"
}

if ((${#missing[@]})); then
  TIMEFORMAT='setup: installed; packages took %0U + %0S s of CPU'
  time install
fi

version=$(cmake --version | sed -n '1s/[^0-9]*//p')
if [[ $(printf '%s\n' 3.22 "$version" | sort -V | head -n 1) != 3.22 ]]; then
  echo "setup: cmake $version is too old: 3.22 is the oldest that configures this (a newer one: pip install cmake)" >&2
  exit 1
fi

# What tests/harness/engine_stub.py imports of the engines, and bridge_stub.py of Megatron-Bridge and Megatron-Core:
# FOLDER: FILE... below the engine's package.
engine_files='
vllm/: scalar_type.py
vllm/utils/: math_utils.py
vllm/model_executor/: parameter.py utils.py
vllm/model_executor/models/: mimo_v2.py mimo_v2_mtp.py minimax_m2.py utils.py
vllm/model_executor/model_loader/: sharded_state_loader.py weight_utils.py
vllm/model_executor/layers/: linear.py vocab_parallel_embedding.py
vllm/model_executor/layers/attention/: attention.py
vllm/model_executor/layers/minimax_rms_norm/: rms_norm_tp.py
vllm/model_executor/layers/quantization/: base_config.py fp8.py kv_cache.py modelopt.py mxfp4.py
vllm/model_executor/layers/quantization/utils/: fp8_utils.py quant_utils.py
vllm/model_executor/layers/fused_moe/: activation.py config.py expert_map_manager.py fused_moe_method_base.py layer.py
vllm/model_executor/layers/fused_moe/: routed_experts.py unquantized_fused_moe_method.py
vllm/model_executor/layers/fused_moe/oracle/: fp8.py
vllm/model_executor/layers/fused_moe/router/: fused_moe_router.py gate_linear.py
vllm/model_executor/layers/fused_moe/runner/: moe_runner.py moe_runner_interface.py
sglang/srt/configs/: model_config.py
sglang/srt/distributed/: utils.py
sglang/srt/layers/: linear.py modelopt_utils.py parameter.py
sglang/srt/layers/quantization/: base_config.py fp8.py modelopt_quant.py unquant.py utils.py
sglang/srt/model_loader/: checkpoint_quantization.py weight_utils.py
sglang/srt/models/: mimo_v2.py mimo_v2_nextn.py minimax_m2.py
megatron/bridge/models/: gpt_provider.py model_provider.py transformer_config.py
megatron/bridge/models/conversion/: mapping_registry.py model_bridge.py param_mapping.py quantization_utils.py
megatron/bridge/models/conversion/: transformers_compat.py utils.py
megatron/bridge/models/decorators/: dispatch.py
megatron/bridge/models/mimo_v2_flash/: mimo_v2_flash_bridge.py mimo_v2_flash_provider.py
megatron/bridge/models/minimax_m2/: minimax_m2_bridge.py minimax_m2_provider.py
megatron/bridge/training/: state.py
megatron/bridge/training/utils/: checkpoint_utils.py config_utils.py
megatron/bridge/utils/: activation_map.py instantiate_utils.py vocab_utils.py
megatron/core/: enums.py model_parallel_config.py
megatron/core/transformer/: cuda_graph_config.py enums.py transformer_config.py
megatron/training/: vocab_utils.py
megatron/training/config/: instantiate_utils.py utils.py
'

# fetch_engines REQUIREMENT...: those files, into .venv-interop/engines/NAME. Whatever Python the tests run on, the
# wheels are those for 3.12: Megatron-Bridge knows MiMo only in versions that want it.
fetch_engines() {
  local wheels=.venv-interop/wheels
  rm -rf "$wheels" .venv-interop/engines
  .venv-interop/bin/python3 -m pip download -q --disable-pip-version-check --no-cache-dir --no-deps --only-binary=:all: \
    --implementation cp --python-version 3.12 --abi cp312 --abi abi3 --platform manylinux_2_34_x86_64 \
    --platform manylinux_2_28_x86_64 --dest "$wheels" "$@" || return 1
  .venv-interop/bin/python3 - "$wheels" .venv-interop/engines "$engine_files" <<'EOF' || return 1
import glob, os, sys, zipfile
wanted = {}
for line in filter(None, sys.argv[3].split("\n")):
    folder, _, names = line.partition(": ")
    wanted.setdefault(folder.partition("/")[0], []).extend(folder + name for name in names.split())
for engine, names in wanted.items():
    for wheel in glob.glob(os.path.join(sys.argv[1], engine + "[-_]*.whl")):  # "megatron" comes in two
        with zipfile.ZipFile(wheel) as archive:
            found = set(names) & set(archive.namelist())
            archive.extractall(os.path.join(sys.argv[2], engine), found)
            names = [name for name in names if name not in found]
    if names:
        sys.exit(f"no {names} in the wheels")
EOF
  rm -rf "$wheels"
}

# fetch_megatron VERSION:PYTHON...: the Python files of these releases, as they are, into .venv-interop/megatron/VERSION. A
# wheel for a newer Python than ours is a zip of the same kind; its compiled parts are not needed.
fetch_megatron() {
  local wheels=.venv-interop/wheels release
  rm -rf "$wheels" .venv-interop/megatron
  for release in "$@"; do
    .venv-interop/bin/python3 -m pip download -q --disable-pip-version-check --no-cache-dir --no-deps \
      --only-binary=:all: --implementation cp --python-version "${release#*:}" --platform manylinux_2_28_x86_64 \
      --dest "$wheels" "megatron-core==${release%:*}" || return 1
  done
  .venv-interop/bin/python3 - "$wheels" .venv-interop/megatron <<'EOF' || return 1
import glob, os, sys, zipfile
for wheel in glob.glob(os.path.join(sys.argv[1], "megatron_core-*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(os.path.join(sys.argv[2], os.path.basename(wheel).split("-")[1]),
                           [name for name in archive.namelist() if name.endswith(".py")])
EOF
  rm -rf "$wheels"
}

if [[ $part == all ]]; then
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
  # The engines whose config parsers and weight loaders the interop tests run: a few Python files out of each wheel, which
  # are fetched whole (375 MB) and deleted. These wheels whatever the machine is: nothing of them is built or installed.
  engines=(vllm==0.33.0 sglang==0.5.23 megatron-bridge==0.6.2 megatron-core==0.19.2)
  fetched="${engines[*]}$engine_files"
  # Megatron-Core before and after it moved its common state into the tensors' directory (0.19), each with the Python that
  # its wheel is for.
  megatron=(0.16.1:3.11 0.19.2:3.12)
  if [[ ${MIMO_INTEROP:-1} != 0 ]]; then
    without="set MIMO_INTEROP=0 to build and test without them"
    if [[ $(cat .venv-interop/installed 2>/dev/null) != "${peers[*]}"* ]]; then
      echo "setup: installing ${peers[*]} into .venv-interop (MIMO_INTEROP=0 leaves them out)"
      python3 -m venv .venv-interop
      if ! .venv-interop/bin/python3 -m pip install -q --disable-pip-version-check --no-cache-dir "${peers[@]}"; then
        echo "setup: the interop packages cannot be installed; $without" >&2
        exit 1
      fi
      echo "${peers[*]}" >.venv-interop/installed
    fi
    if [[ $(cat .venv-interop/engines/fetched 2>/dev/null) != "${fetched%$'\n'}" ]]; then
      echo "setup: taking files of ${engines[*]} into .venv-interop/engines (MIMO_INTEROP=0 leaves them out)"
      if ! fetch_engines "${engines[@]}"; then
        echo "setup: the engines' wheels cannot be fetched; $without" >&2
        exit 1
      fi
      echo "${fetched%$'\n'}" >.venv-interop/engines/fetched
    fi
    if [[ $(cat .venv-interop/megatron/fetched 2>/dev/null) != "${megatron[*]}" ]]; then
      echo "setup: taking megatron-core ${megatron[*]} into .venv-interop/megatron (MIMO_INTEROP=0 leaves it out)"
      if ! fetch_megatron "${megatron[@]}"; then
        echo "setup: the wheels of megatron-core cannot be fetched; $without" >&2
        exit 1
      fi
      echo "${megatron[*]}" >.venv-interop/megatron/fetched
    fi
  fi
  # The engine that tests/engines runs on our output: 0.4 GB on disk, no torch, a minute to install. It exists for fewer
  # machines than the tools do: where it cannot be had its tests are skipped, unless MIMO_ENGINES=1 insists, as CI does.
  mlx=("mlx[cpu]==0.32.4" mlx-lm==0.32.2 transformers==5.24.0 numpy)
  if [[ ${MIMO_ENGINES:-} != 0 && $(cat .venv-mlx/installed 2>/dev/null) != "${mlx[*]}" ]]; then
    echo "setup: installing ${mlx[*]} into .venv-mlx (MIMO_ENGINES=0 leaves them out)"
    rm -rf .venv-mlx
    python3 -m venv .venv-mlx
    if .venv-mlx/bin/python3 -m pip install -q --disable-pip-version-check --no-cache-dir --only-binary=:all: "${mlx[@]}" &&
      .venv-mlx/bin/python3 -c 'import mlx.core, mlx_lm' >/dev/null; then
      echo "${mlx[*]}" >.venv-mlx/installed
    else
      rm -rf .venv-mlx
      if [[ ${MIMO_ENGINES:-} == 1 ]]; then
        echo "setup: the engine cannot be installed, and MIMO_ENGINES=1 insists on it" >&2
        exit 1
      fi
      echo "setup: the engine cannot be installed: engines.test_mlx will be skipped" >&2
    fi
  fi
fi
