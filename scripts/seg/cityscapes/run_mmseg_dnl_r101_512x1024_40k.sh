#!/usr/bin/env bash
# DNLNet of mmsegmentation, ResNet-101: train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/cityscapes/mmseg_dnl_r101_512x1024_40k.yaml "$@"
