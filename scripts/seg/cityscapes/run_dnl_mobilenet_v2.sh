#!/usr/bin/env bash
# DNL, MobileNetV2: run_dnl_mobilenet_v2.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/cityscapes/dnl_mobilenet_v2.yaml "$@"
