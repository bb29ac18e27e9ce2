"""The recorded protocols of inference hold, and only those protocols do."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests import replay_golden

MORE = Path(__file__).parents[1].parent / "shared" / "golden" / "more"
FILES = sorted(MORE.glob("predict_*.npz"))

pytestmark = pytest.mark.skipif(not FILES, reason="the fixtures are not there")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_fixture_holds(file):
    line, holds = replay_golden.replay(file)
    assert holds, line


@pytest.mark.parametrize(
    ("name", "change", "missed"),
    [
        ("torchcv_cityscapes_ms", {"scales": [0.76, 1.0, 1.25]}, "MISSED: logits"),
        ("torchcv_cityscapes_ms", {"flip": False}, "MISSED: logits"),
        ("torchcv_cityscapes_ms", {"logits_interpolation": "cv2.INTER_LINEAR"}, "MISSED: logits"),
        ("torchcv_cityscapes_sscrop", {"stride_ratio": 0.5}, "MISSED: logits"),
        ("torchcv_ade20k_ss", {"pad_multiple": 1}, "MISSED: logits"),
        ("torchcv_ade20k_ss", {"short_side": 76}, "MISSED: logits"),
        ("mmseg_ms_flip", {"base_scale": [288, 73]}, "MISSED: network_sizes"),
        ("mmseg_slide_one_side_below", {"stride": [38, 37]}, "MISSED: logits"),
        ("mmseg_whole_resized", {"align_corners": False}, "MISSED: logits"),
        # what is not known is said to be so
        ("torchcv_cityscapes_ms", {"mode": "mswhole"}, "MISSED: mode=mswhole is not supported"),
        ("torchcv_cityscapes_ms", {"logits_interpolation": "cv2.INTER_AREA"}, "INTER_AREA is not supported"),
        ("torchcv_cityscapes_ms", {"rules": "voc"}, "rules=voc is not supported"),
        ("torchcv_cityscapes_sscrop", {"flip": True}, "mode=sscrop with .*flip=True is not supported"),
        ("mmseg_whole", {"inference": "tiles"}, "inference=tiles is not supported"),
        ("mmseg_whole", {"ratios": [0.5]}, "tta=False with ratios=.* is not supported"),
        ("mmseg_whole", {"sharpen": 2}, "option sharpen=2 is not supported"),
    ],
)
def test_another_protocol_is_a_miss(tmp_path, name, change, missed):
    with np.load(MORE / f"predict_{name}.npz") as archive:
        arrays = dict(archive)
    case = json.loads(str(arrays.pop("description"))) | change
    np.savez(tmp_path / "changed.npz", description=json.dumps(case), **arrays)
    line, holds = replay_golden.replay(tmp_path / "changed.npz")
    assert not holds
    assert re.search(missed, line), line


def test_a_label_without_the_largest_logit_is_a_miss(tmp_path):
    with np.load(MORE / "predict_torchcv_cityscapes_ms.npz") as archive:
        arrays = dict(archive)
    arrays["labels"][3, 4] = arrays["logits"][:, 3, 4].argmin()
    np.savez(tmp_path / "wrong.npz", **arrays)
    line, holds = replay_golden.replay(tmp_path / "wrong.npz")
    assert not holds and line.endswith("MISSED: labels")
