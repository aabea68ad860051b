#!/usr/bin/env bash
# The README's commands on a machine that has nothing: a minimal Debian in a folder (debootstrap, with git, ca-certificates and sudo
# added), a user without root, a clone of this tree's HEAD, then demo.sh and test.sh there, and both again in the reverse order.
#   fresh.sh [bookworm|trixie] [OPTION...]     as root; bookworm unless named
#     --dir FOLDER       where (default /var/tmp/mimo-fresh-SUITE): FOLDER/root is removed at the end, FOLDER/logs stays
#     --only demo|test   that command alone, and again
#     --reverse          the tests first
#     --interop          with the tests that need torch: 6 GB more (MIMO_INTEROP=0 otherwise)
#     --tests REGEX      only these tests, also the first time (ctest -R)
#     --mirror URL       instead of the mirror that this machine's apt uses
#     --keyring FILE     the keys that sign it (default: Debian's)
#     --keep             leave FOLDER/root, to look around in it
# The machine's proxies, certificates, and pip's configuration are carried over. Prints what each command took: its exit code, CPU
# and wall time, the CPU time of packages in it, and the size of the clone afterwards. Exit 0 when every command succeeded.
set -euo pipefail

tree=$(cd "$(dirname "$0")/.." && pwd)
suite=bookworm folder='' only='' reverse='' interop=0 tests='' mirror='' keep=''
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

usage() {
  sed -n '2,/^set -e/{/^set -e/d; s/^# \{0,1\}//; p}' "$0" >&2
  exit 2
}

fail() {
  echo "fresh: $*" >&2
  exit 1
}

while (($#)); do
  case $1 in
    bookworm | trixie) suite=$1 ;;
    --dir) folder=${2:?$(usage)}; shift ;;
    --only) only=${2:?$(usage)}; shift ;;
    --tests) tests=${2:?$(usage)}; shift ;;
    --mirror) mirror=${2:?$(usage)}; shift ;;
    --keyring) keyring=${2:?$(usage)}; shift ;;
    --reverse) reverse=yes ;;
    --interop) interop=1 ;;
    --keep) keep=yes ;;
    *) usage ;;
  esac
  shift
done
[[ $only =~ ^(demo|test|)$ ]] || usage
((EUID == 0)) || fail "debootstrap and chroot need root: sudo $0 $suite"
folder=${folder:-/var/tmp/mimo-fresh-$suite}
root=$folder/root
logs=$folder/logs
[[ ! -e $root ]] || fail "$root is there, from an earlier run: remove it, or name another folder with --dir"
if ! command -v debootstrap >/dev/null 2>&1; then
  apt-get update -qq || true
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
fi

# ---- the system --------------------------------------------------------------------------------------------------------

# Mounts are made in a namespace that ends with the command: nothing is left to unmount, and no mount is there to remove files through.
inside() {
  # shellcheck disable=SC2016
  unshare --mount --pid --fork --kill-child bash -c '
    mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm" || exit
    exec chroot "${@:2}"' inside "$root" "$@"
}
as_root() { inside "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
as_user() { inside --userspec=user:user "$root" env -i "${environment[@]}" "$@"; }


# The mirror of this machine's own release.
find_mirror() {
  # shellcheck disable=SC1091,SC2016
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v release="$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" '$2 == release && $3 == "main" {print $1; exit}'
}

# apt's ways to the net: proxies and certificates, whether apt or the environment names them.
apt_settings() {
  apt-config dump | grep -E '^Acquire::(http|https|Retries|Check-|ForceIPv)' || true
  [[ -z ${http_proxy:-} ]] || echo "Acquire::http::Proxy \"$http_proxy\";"
  [[ -z ${https_proxy:-} ]] || echo "Acquire::https::Proxy \"$https_proxy\";"
}

make_system() {
  mkdir -p "$root" "$logs"
  [[ -n $keep ]] || trap 'rm -rf --one-file-system "$root"' EXIT
  mirror=${mirror:-$(find_mirror)}
  [[ -n $mirror ]] || fail "apt's configuration names no Debian mirror: give one with --mirror"
  local proxy='' script=()
  eval "$(apt-config shell proxy Acquire::http::Proxy)"
  # Releases that are newer than debootstrap are made as their predecessors are.
  [[ -e /usr/share/debootstrap/scripts/$suite ]] || script=(/usr/share/debootstrap/scripts/sid)
  echo "fresh: a minimal $suite in $root"
  http_proxy=${http_proxy:-$proxy} unshare --mount debootstrap --variant=minbase --keyring="$keyring" "$suite" "$root" \
    "$mirror" "${script[@]}" >"$logs/debootstrap.log" 2>&1 || { tail -n 5 "$logs/debootstrap.log" >&2; fail "debootstrap failed"; }
  install -D -m 644 -t "$root/etc/apt/trusted.gpg.d" "$keyring"
  apt_settings >"$root/etc/apt/apt.conf.d/00machine"
  cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
  as_root apt-get update -qq
  as_root apt-get install -y -qq --no-install-recommends git ca-certificates sudo >"$logs/packages.log" 2>&1
  if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
    cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/"
    as_root update-ca-certificates >/dev/null 2>&1
  fi
  as_root useradd --create-home --shell /bin/bash user
  echo 'user ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/user"
}

# What pip and other clients need to know of this machine.
carry_settings() {
  local name
  environment=(HOME=/home/user USER=user PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 TERM=dumb "MIMO_INTEROP=$interop")
  while IFS= read -r name; do
    environment+=("$name=${!name}")
  done < <(compgen -e | grep -E '^(PIP_.*|https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY|SSL_CERT_FILE|REQUESTS_CA_BUNDLE)$')
  if [[ -f /etc/pip.conf ]]; then
    cp /etc/pip.conf "$root/etc/"
  fi
  if [[ -f ${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf ]]; then
    install -D -m 644 "${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf" "$root/home/user/.config/pip/pip.conf"
    as_root chown -R user: /home/user/.config
  fi
  if [[ -d ${PIP_FIND_LINKS:-} ]]; then
    mkdir -p "$root$PIP_FIND_LINKS"
    cp -a "$PIP_FIND_LINKS/." "$root$PIP_FIND_LINKS"
  fi
}

# ---- the commands ------------------------------------------------------------------------------------------------------

rows=()
failures=0

# measure NAME LOG COMMAND...: runs it in the clone and notes what it took.
measure() {
  local name=$1 log=$logs/$2 code=0 user system wall size packages
  shift 2
  echo "fresh: $name"
  # shellcheck disable=SC2016
  as_user bash -c 'cd ~/mimo-convert; TIMEFORMAT="fresh: %U %S %R"; time "$@"' measure "$@" >"$log" 2>&1 </dev/null || code=$?
  ((code == 0)) || { failures=$((failures + 1)); tail -n 20 "$log" >&2; }
  read -r user system wall < <(sed -n 's/^fresh: //p' "$log" | tail -n 1)
  packages=$(awk '/^setup: installed; packages took/ {print $5 + $7}' "$log")
  size=$(du -sm "$root/home/user/mimo-convert" | cut -f 1)
  rows+=("$(awk -v name="$name" -v code="$code" -v cpu="$user $system" -v wall="$wall" -v packages="${packages:-0}" -v size="$size" '
    BEGIN { split(cpu, t, " "); printf "%-38s %4d %8.0f %9d %8.0f %8d", name, code, t[1] + t[2], packages, wall, size }')")
}

demo() { measure "scripts/demo.sh$1" "demo${1:+-again}.log" scripts/demo.sh; }
test_all() { measure "scripts/test.sh${tests:+ -R $tests}" test.log scripts/test.sh ${tests:+-R "$tests"}; }
# A second time shows that nothing of the first is in the way; a few tests of each kind do.
test_again() { measure "scripts/test.sh, again (a few)" test-again.log scripts/test.sh -R '^(base\.|cli\.test_json|interop\.test_readers)'; }

make_system
carry_settings
git -C "$tree" bundle create -q "$root/home/tree.bundle" HEAD
as_user git -c init.defaultBranch=main -c advice.detachedHead=false clone -q /home/tree.bundle /home/user/mimo-convert
case $only$reverse in
  demo*) demo ''; demo ', again' ;;
  test*) test_all; test_again ;;
  yes) test_all; demo ''; demo ', again'; test_again ;;
  *) demo ''; test_all; test_again; demo ', again' ;;
esac

echo
echo "$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' "$root/etc/os-release"), $(as_user g++ --version | head -n 1), $(as_user cmake --version | head -n 1)"
echo "clone of $(as_user git -C /home/user/mimo-convert rev-parse --short HEAD), $(nproc) cores, MIMO_INTEROP=$interop"
printf '%-38s %4s %8s %9s %8s %8s\n' command exit 'CPU s' packages 'wall s' 'clone MB'
printf '%s\n' "${rows[@]}"
echo "logs: $logs"
exit "$((failures > 0))"
