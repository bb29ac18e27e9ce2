# Sourced: sets $python to the interpreter that holds the project's packages: $VENV, the repository's .venv that
# scripts/setup.sh makes, an active environment, or python3. Keeps the working directory out of what Python imports: it
# may hold a torch.py or a lib/ of its own.
unset CDPATH BASH_ENV
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
if [ -n "${VENV:-}" ]; then
  case $VENV in
    /*) python=$VENV/bin/python ;;
    *) python=$PWD/$VENV/bin/python ;;
  esac
elif [ -x "$here/.venv/bin/python" ]; then
  python=$here/.venv/bin/python
else
  python=$(command -v python || command -v python3)
fi
# Of PYTHONPATH only absolute folders stay; an empty one is the working directory too.
IFS=: read -r -d '' -a folders <<<"${PYTHONPATH:-}:" || true
PYTHONPATH=
for folder in "${folders[@]}"; do
  [ "${folder#/}" = "$folder" ] || [ "$folder" -ef . ] || PYTHONPATH=$PYTHONPATH${PYTHONPATH:+:}$folder
done
if [ -z "$PYTHONPATH" ]; then
  unset PYTHONPATH
fi
if ! "$python" -c 'import sys; sys.path = [p for p in sys.path if p]; import importlib.util as u; sys.exit(not (u.find_spec("torch") and u.find_spec("omegaconf")))' 2>/dev/null; then
  echo "error: $python does not have the project's packages: run bash scripts/setup.sh first" >&2
  exit 2
fi
