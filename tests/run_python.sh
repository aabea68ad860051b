#!/bin/sh
# Runs a module of Python tests under the first interpreter that has what it needs. The choice is made when the test runs,
# so that environments may come and go after the build was configured.
#   run_python.sh SOURCE MODULE NEED...
# A NEED is a Python package, or a path below SOURCE (it has a slash). PACKAGE? is wanted where some interpreter has it.
# Interpreters: $MIMO_PYTHON, .venv, .venv-interop (not under MIMO_INTEROP=0), .venv-mlx (not under MIMO_ENGINES=0), python3.
# Exit 77, which is ctest's skip, where a need is met by none of them; the last line says which.
set -u
source=$1
module=$2
shift 2

skip() {
  echo "skipped: $module needs $1, which scripts/setup.sh brings"
  exit 77
}

interop=${MIMO_INTEROP:-1}
engines=${MIMO_ENGINES:-1}
packages='' wanted=''
for need in "$@"; do
  case $need in
    *\?) wanted="$wanted ${need%\?}" ;;
    mlx) [ "$engines" != 0 ] || skip "$need (MIMO_ENGINES=0 leaves it out)"
      packages="$packages $need" ;;
    .venv-interop/*)
      [ "$interop" != 0 ] || skip "$need (MIMO_INTEROP=0 leaves it out)"
      [ -e "$source/$need" ] || skip "$need" ;;
    */*) [ -e "$source/$need" ] || skip "$need" ;;
    *) packages="$packages $need" ;;
  esac
done

# Prints the packages that the interpreter lacks. They are looked for, not imported: that takes seconds for torch.
lacking() {
  "$@" 2>/dev/null <<'PYTHON'
import importlib.util, sys
print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name) is None])
PYTHON
}

# Sets `python` to the first that has these packages, `missing` to what the first to be found lacks.
choose() {
  for python in ${MIMO_PYTHON:-} "$source/.venv/bin/python3" "$source/.venv-interop/bin/python3" \
    "$source/.venv-mlx/bin/python3" python3; do
    case $python in
      *.venv-interop/*) [ "$interop" != 0 ] || continue ;;
      *.venv-mlx/*) [ "$engines" != 0 ] || continue ;;
    esac
    lacks=$(lacking "$python" - "$@") || continue
    [ -n "$lacks" ] || return 0
    missing=${missing:-$lacks}
  done
  return 1
}

missing=''
# shellcheck disable=SC2086  # lists of package names
choose $packages $wanted || { missing=''; choose $packages; } || skip "${missing:-python3}"
exec "$python" -m unittest -v "$module"
