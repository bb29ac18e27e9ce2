#!/usr/bin/env bash
# From nothing to a trained network: set up, draw a dataset, prepare it, train, validate, and say how it went.
# Arguments are key=value settings for the training, for example train.max_iters=600.
set -euo pipefail
unset CDPATH BASH_ENV
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/setup.sh"
. "$root/scripts/python.sh"
RUNS_DIR=${RUNS_DIR:-$root/runs}
case $RUNS_DIR in
  /*) ;;
  *) RUNS_DIR=$PWD/$RUNS_DIR ;;
esac
export RUNS_DIR
demo=$RUNS_DIR/demo
run=$RUNS_DIR/seg/cityscapes/demo/demo

# Python looks into its working directory first.
from_root() {
  (cd -- "$root" && "$python" "$@")
}

echo "== 1/4 drawing street scenes in the layout of the Cityscapes download"
from_root -m datasets.seg.street --dst "$demo/raw" --train 200 --val 24 --test 4 --size 512 256
echo "== 2/4 preparing them for training"
from_root -m datasets.seg.preprocess.cityscapes --src "$demo/raw" --dst "$demo/data"
echo "== 3/4 training"
bash "$root/scripts/seg/dispatch.sh" seg/cityscapes/demo.yaml train demo "$demo/data" overwrite=true "$@"
echo "== 4/4 validating"
bash "$root/scripts/seg/dispatch.sh" seg/cityscapes/demo.yaml val demo "$demo/data"
from_root main.py sheet --data "$demo/data/val" --prediction "$run/val/label" --dataset cityscapes --out "$run/val/compare.jpg"

from_root - "$run" <<'PYTHON'
import json, pathlib, sys

run = pathlib.Path(sys.argv[1])
rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
before = next(row["miou"] for row in rows if "miou" in row)
after = json.loads((run / "val/metrics.json").read_text())["miou"]
print(f"\nmIoU before training {100 * before:.2f}, after training {100 * after:.2f}")
print(f"pictures: {run}/val/compare.jpg and {run}/val/vis/")
PYTHON
