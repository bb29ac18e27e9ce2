#!/usr/bin/env bash
# NL-ln, ResNet-101: run_nl_ln.sh train|resume|val|test TAG DATA_DIR [PRETRAINED] [key=value ...]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../dispatch.sh" seg/cityscapes/nl_ln_r101.yaml "$@"
