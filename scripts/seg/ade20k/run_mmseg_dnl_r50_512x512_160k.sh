#!/usr/bin/env bash
# DNLNet of mmsegmentation, ResNet-50: train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/ade20k/mmseg_dnl_r50_512x512_160k.yaml "$@"
