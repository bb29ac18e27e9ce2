#!/usr/bin/env bash
# What all recipe scripts share: dispatch.sh CONFIG MODE TAG DATA_DIR [PRETRAINED] [--max-restarts N] [key=value ...]
set -euo pipefail
# Bash tells of signals to stop until it gives way, and would lose one that comes just then: where env can (GNU, 8.31 and
# later), this script starts itself again with them blocked, and Python finds them once it listens.
if [ "${1:-}" = --kept ]; then
  shift
else
  trap 'echo interrupted >&2; exit 130' INT
  trap 'echo interrupted >&2; exit 143' TERM
  trap 'echo interrupted >&2; exit 129' HUP
  if { env --block-signal=INT true; } 2>/dev/null; then
    trap - INT TERM HUP
    exec env --block-signal=INT --block-signal=TERM --block-signal=HUP bash "${BASH_SOURCE[0]}" --kept "$@"
  fi
fi
unset CDPATH BASH_ENV
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
config=$root/configs/$1
shift

fail() {
  echo "error: $1" >&2
  exit 2
}

# Sets `path` to the one given, as it is from any working directory; printed, it would lose line ends at its end.
absolute() {
  case $1 in
    /*) path=$1 ;;
    *) path=$PWD/$1 ;;
  esac
}

mode=${1:-}
case $mode in
  train | resume | val | test) ;;
  *) fail "unknown mode '$mode': choose train, resume, val or test" ;;
esac
[ -n "${2:-}" ] && [ -n "${3:-}" ] || fail "TAG or DATA_DIR is missing: give $mode TAG DATA_DIR [PRETRAINED] [key=value ...]"
absolute "$3"
arguments=("tag=$2" "data.root=$path")
shift 3
# A fourth word that is neither key=value nor an option is the file of pretrained weights, or says where there are some.
if [ $# -ge 1 ] && ! [[ $1 =~ ^(-|[A-Za-z_][A-Za-z0-9_.]*=) ]]; then
  [ -n "$1" ] || fail "PRETRAINED is empty: name the file of pretrained weights, or leave it out"
  case $1 in
    http://* | https://* | torchvision:* | timm:*) path=$1 ;;
    *) absolute "$1" ;;
  esac
  arguments+=("pretrained=$path")
  shift
fi

# shellcheck source=scripts/python.sh
. "$root/scripts/python.sh"
# PYTHONSAFEPATH (Python 3.11 and later) is for what Python itself starts, such as helpers of multiprocessing.
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1
# PyTorch tells of lost connections with a page of addresses for each.
export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}
exec "$python" "$root/lib/engine/launch.py" "$mode" --config "$config" "${arguments[@]}" "$@"
