#!/usr/bin/env bash
# NL, ResNet-101: run_nl.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/camvid/nl_r101.yaml "$@"
