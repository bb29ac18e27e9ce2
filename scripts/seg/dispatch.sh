#!/usr/bin/env bash
# What all recipe scripts share: dispatch.sh CONFIG MODE TAG DATA_DIR [PRETRAINED] [key=value ...]
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
config=$root/configs/$1
shift

usage() {
  echo "error: $1" >&2
  echo "usage: bash scripts/seg/<dataset>/run_<recipe>.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]" >&2
  exit 2
}

[ $# -ge 1 ] || usage "MODE is missing"
mode=$1
case $mode in
  train | resume | val | test) ;;
  *) usage "unknown mode '$mode': choose train, resume, val or test" ;;
esac
[ $# -ge 3 ] || usage "TAG or DATA_DIR is missing"
arguments=("tag=$2" "data.root=$(realpath -m -- "$3")")
shift 3
# A fourth word that is not key=value is the file of pretrained weights.
if [ $# -ge 1 ] && ! [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_.]*= ]]; then
  arguments+=("pretrained=$(realpath -m -- "$1")")
  shift
fi

# shellcheck source=scripts/python.sh
. "$root/scripts/python.sh"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m lib.engine.launch "$mode" --config "$config" "${arguments[@]}" "$@"
