#!/usr/bin/env bash
# Set up and run the whole test suite; arguments go to pytest.
set -euo pipefail
unset CDPATH BASH_ENV
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/setup.sh"
. "$root/scripts/python.sh"
cd "$root"
exec "$python" -m pytest "$@"
