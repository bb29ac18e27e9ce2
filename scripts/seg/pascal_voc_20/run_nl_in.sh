#!/usr/bin/env bash
# NL-in, ResNet-101: run_nl_in.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/pascal_voc_20/nl_in_r101.yaml "$@"
