#!/usr/bin/env bash
# DNL, ResNet-101, on data of your own: run_dnl.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/custom/dnl_r101.yaml "$@"
