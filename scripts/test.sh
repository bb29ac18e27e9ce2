#!/usr/bin/env bash
# Set up and run the whole test suite, some files at a time; arguments go to pytest.
set -euo pipefail
unset CDPATH BASH_ENV
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/setup.sh"
. "$root/scripts/python.sh"
cd "$root"
cores=$("$python" -c 'import os; print(os.cpu_count() or 1)')
processes=$((cores < 4 ? cores : 4))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores / processes))}
exec "$python" -m pytest -n "$processes" --dist loadfile "$@"
