#!/usr/bin/env bash
# FCN, the baseline of DNL, on your own data: run_fcn.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/custom/fcn_r101.yaml "$@"
