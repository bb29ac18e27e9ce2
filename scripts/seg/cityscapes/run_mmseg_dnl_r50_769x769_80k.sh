#!/usr/bin/env bash
# DNLNet of mmsegmentation, ResNet-50: train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/cityscapes/mmseg_dnl_r50_769x769_80k.yaml "$@"
