# Sourced: sets $python to the interpreter that holds the project's packages: $VENV, the repository's .venv that
# scripts/setup.sh makes, an active environment, or python3.
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
if [ -n "${VENV:-}" ]; then
  python=$VENV/bin/python
elif [ -x "$here/.venv/bin/python" ]; then
  python=$here/.venv/bin/python
else
  python=$(command -v python || command -v python3)
fi
if ! "$python" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("omegaconf")))' 2>/dev/null; then
  echo "error: $python does not have the project's packages: run bash scripts/setup.sh first" >&2
  exit 2
fi
