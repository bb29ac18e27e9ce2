#!/usr/bin/env bash
# DeepLab v3, ResNet-101: run_deeplab_v3.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/ade20k/deeplab_v3_r101.yaml "$@"
