#!/usr/bin/env bash
# DenseASPP, ResNet-101: run_dense_aspp.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/cityscapes/dense_aspp_r101.yaml "$@"
