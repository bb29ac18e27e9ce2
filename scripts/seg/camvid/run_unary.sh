#!/usr/bin/env bash
# DNL's unary term, ResNet-101: run_unary.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/camvid/unary_r101.yaml "$@"
