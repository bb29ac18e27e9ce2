#!/usr/bin/env bash
# The FCN baseline, ResNet-101: run_fcn.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/ade20k/fcn_r101.yaml "$@"
