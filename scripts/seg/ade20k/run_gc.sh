#!/usr/bin/env bash
# GCNet, ResNet-101: run_gc.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/ade20k/gc_r101.yaml "$@"
