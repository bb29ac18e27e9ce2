#!/usr/bin/env bash
# DNL, ResNet-101: run_dnl.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/pascal_context_60/dnl_r101.yaml "$@"
