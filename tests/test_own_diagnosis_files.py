"""Real images and labels: ordinary ones give no alarm, and what people do to them is found in the files."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.seg.own.prepare import Request, prepare
from datasets.seg.street import write_dataset
from lib.base.errors import UserError

SHARED = Path(__file__).parents[2] / "shared" / "data"


def copy_camvid(root: Path, step: int) -> Path:
    """Images and id masks of CamVid: each ``step``-th of its train split."""
    for folder, source in (("images", "train"), ("masks", "trainannot")):
        (root / folder).mkdir()
        for path in sorted((SHARED / "camvid" / source).iterdir())[::step]:
            shutil.copy(path, root / folder)
    return root


@pytest.fixture
def camvid(tmp_path) -> Path:
    """A few pairs."""
    return copy_camvid(tmp_path, 20)


def diagnose(root: Path, capsys, images: str = "images", labels: str = "masks", **options) -> str:
    """The findings that are printed, on one line."""
    capsys.readouterr()
    prepare(Request(root / "data", root / images, root / labels, workers=2, **options))
    return " ".join(capsys.readouterr().out.split("Findings: ")[1].split("\n\n")[0].split())


def change(root: Path, how, suffix: str = ".png") -> None:
    """Save all masks anew."""
    for path in sorted((root / "masks").iterdir()):
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        path.unlink()
        cv2.imwrite(str(path.with_suffix(suffix)), how(label))


def there_and_back(label: np.ndarray) -> np.ndarray:
    """Smaller and larger again, as a tool for photographs does it."""
    return cv2.resize(cv2.resize(label, (300, 225)), label.shape[::-1])


def test_camvid_gives_no_finding(tmp_path, capsys):
    camvid = copy_camvid(tmp_path, 9)
    assert diagnose(camvid, capsys, ignore=("11",)) == "nothing looks wrong"
    facts = json.loads((camvid / "data/facts.json").read_text())
    pixels = [cv2.imread(str(path))[..., ::-1] for path in (camvid / "data/train/image").iterdir()]
    np.testing.assert_allclose(facts["mean"], np.mean(pixels, axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(facts["std"], np.std(pixels, axis=(0, 1, 2)), rtol=1e-9)
    page = (camvid / "data/report.html").read_text()
    assert page.count("<img") == 2 * 14 and len(page) < 3e6


@pytest.mark.slow
def test_drawn_streets_give_true_findings_alone(tmp_path, capsys):
    write_dataset(tmp_path / "raw", {"train": 40, "val": 10, "test": 0}, (256, 128), seed=0, workers=1)
    found = diagnose(tmp_path / "raw", capsys, "leftImg8bit", "gtFine")
    assert found.startswith("1 - the ids have gaps: 1, 4, 7..9, 11..13, 17")


def test_three_pairs_of_ade20k_give_true_findings_alone(tmp_path, capsys):
    for split, names in (("train", "12"), ("val", "3")):
        for folder, suffix in (("images", "jpg"), ("annotations", "png")):
            (tmp_path / folder / split).mkdir(parents=True)
            for name in names:
                source = SHARED / "ade20k_sample" / folder / "validation" / f"ADE_val_0000000{name}.{suffix}"
                shutil.copy(source, tmp_path / folder / split)
    found = diagnose(tmp_path, capsys, labels="annotations", ignore=("0",))
    assert found.startswith("5 - the ids have gaps: 1..3, 5, 7, 10")
    for said in ("in val but not in train", "in train but not in val", "2 to train on", "only 1 image to validate on"):
        assert said in found


def test_masks_resized_with_interpolation_are_found(camvid, capsys):
    change(camvid, lambda label: there_and_back(label * 20))
    assert "values hardly occur and lie along edges alone" in diagnose(camvid, capsys)


def test_masks_of_ids_without_gaps_resized_with_interpolation_are_found(camvid, capsys):
    change(camvid, there_and_back)
    assert "classes that are areas elsewhere are mere lines" in diagnose(camvid, capsys, ignore=("11",))


def test_colour_masks_resized_with_interpolation_are_found_before_the_error(camvid, capsys):
    change(camvid, lambda label: there_and_back(cv2.applyColorMap(label * 20, cv2.COLORMAP_JET)[..., 0]))
    change(camvid, lambda label: cv2.applyColorMap(label, cv2.COLORMAP_JET))
    change(camvid, lambda label: cv2.resize(label, None, fx=0.5, fy=0.5))
    with pytest.raises(UserError, match="there can be 254 classes at most"):
        diagnose(camvid, capsys)
    assert "colours hardly occur and lie along edges alone" in " ".join(capsys.readouterr().out.split())
    assert not (camvid / "data/classes.csv").exists()


def test_jpeg_masks_are_found(camvid, capsys):
    change(camvid, lambda label: label * 20, ".jpg")
    assert "19 masks are stored with loss (JPEG)" in diagnose(camvid, capsys)


def test_a_copy_of_other_compression_in_val_is_found(camvid, capsys):
    for folder in ("images", "masks"):
        paths = sorted((camvid / folder).iterdir())
        for at, path in enumerate(paths):
            split = camvid / folder / ("val" if at % 4 == 0 else "train")
            split.mkdir(exist_ok=True)
            path.rename(split / path.name)
        first = camvid / folder / "train" / paths[1].name
        cv2.imwrite(str(camvid / folder / "val" / "copy.png"), cv2.imread(str(first), cv2.IMREAD_UNCHANGED))
    found = diagnose(camvid, capsys, ignore=("11",))
    assert "! severe: 1 image is in more than one split (the same pixels)" in found
