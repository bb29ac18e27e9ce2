#!/usr/bin/env bash
# SNL, ResNet-50: run_snl.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/cityscapes/snl_r50.yaml "$@"
