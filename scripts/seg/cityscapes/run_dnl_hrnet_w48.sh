#!/usr/bin/env bash
# DNL, HRNetV2-W48: run_dnl_hrnet_w48.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/cityscapes/dnl_hrnet_w48.yaml "$@"
