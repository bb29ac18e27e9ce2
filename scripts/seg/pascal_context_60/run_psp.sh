#!/usr/bin/env bash
# PSPNet, ResNet-101: run_psp.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/pascal_context_60/psp_r101.yaml "$@"
