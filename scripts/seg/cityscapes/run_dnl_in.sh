#!/usr/bin/env bash
# DNL-in, ResNet-101: run_dnl_in.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/cityscapes/dnl_in_r101.yaml "$@"
