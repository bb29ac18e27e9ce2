#!/usr/bin/env bash
# Build the compiled extensions in place, for the CPU and, where there is a CUDA toolkit, for GPUs; quick when nothing changed.
# VENV=... uses another environment; CXX, CXXFLAGS, CUDA_HOME and TORCH_CUDA_ARCH_LIST as in exts/sync_bn/build.py.
set -euo pipefail
unset CDPATH BASH_ENV
. "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/python.sh"
exec "$python" "$(dirname -- "${BASH_SOURCE[0]}")/sync_bn/build.py"
