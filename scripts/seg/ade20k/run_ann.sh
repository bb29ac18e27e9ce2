#!/usr/bin/env bash
# ANN, ResNet-101: run_ann.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/ade20k/ann_r101.yaml "$@"
