#!/usr/bin/env bash
# Make .venv and install requirements.txt; quick when nothing changed. PYTHON=... chooses the interpreter, VENV=... uses
# another environment (made if it does not exist). Builds the compiled extension too, where there is a compiler.
set -euo pipefail
unset CDPATH BASH_ENV
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
stamp=$venv/.requirements-installed

if [ ! -x "$venv/bin/python" ]; then
  base=${PYTHON:-python3}
  if ! "$base" -Ic 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "error: $base is not Python 3.10 or later: name one with PYTHON=/path/to/python" >&2
    exit 2
  fi
  echo "setup: making $venv"
  "$base" -Im venv "$venv"
fi
if ! cmp -s "$root/requirements.txt" "$stamp"; then
  echo "setup: installing requirements.txt (PyTorch is large; this takes a minute or more)"
  "$venv/bin/python" -Im pip install --quiet --disable-pip-version-check -r "$root/requirements.txt"
  cp "$root/requirements.txt" "$stamp"
fi
VENV=$venv bash "$root/exts/make.sh" || echo "setup: going on without the compiled extension, which some layers run faster with" >&2
