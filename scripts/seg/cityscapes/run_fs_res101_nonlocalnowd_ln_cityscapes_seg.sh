#!/usr/bin/env bash
# The name under which the recipe was published.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/run_dnl.sh" "$@"
