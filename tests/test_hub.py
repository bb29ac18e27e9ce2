"""torch.hub: from a working directory with packages of our names, before and after ours; predictions are val's."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from datasets.seg.classes import load_table
from lib.models import BACKBONES, BLOCKS

TABLE = load_table("cityscapes")


def hub(name, *words, **options):
    return torch.hub.load(str(ROOT), name, *words, source="local", **options)


@pytest.fixture(scope="module")
def model(scored):
    return hub("segmentor", scored, device="cpu")


@pytest.fixture(scope="module")
def images(data_root):
    return sorted((data_root / "val" / "image").iterdir())


def rgb(path):
    return np.asarray(Image.open(path).convert("RGB"))


class TestPrediction:
    def test_ids_are_those_that_val_writes(self, model, scored, images):
        assert len(images) == 3
        for path in images:
            expected = cv2.imread(str(scored / "val" / "label" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
            ids = model.predict(path).ids
            assert len(np.unique(ids)) > 1
            assert ids.dtype == np.uint8 and np.array_equal(ids, expected)
        assert model.predict(str(images[0])).names == TABLE.names

    def test_path_picture_array_and_tensor_are_the_same_image(self, model, images):
        expected, array = model.predict(images[0]), rgb(images[0])
        tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
        for image in (Image.open(images[0]), array, array[:, ::-1][:, ::-1], tensor, tensor / 255, array / 255):
            assert np.array_equal(model.predict(image).ids, expected.ids)
        opaque = Image.open(images[0]).convert("RGBA")
        assert np.array_equal(model.predict(opaque).ids, expected.ids)

    def test_probabilities_decide_the_ids(self, model, images):
        result = model.predict(images[0])
        probabilities = result.probabilities
        assert probabilities.shape == (19, 64, 96) and probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
        assert np.array_equal(result.class_ids[probabilities.argmax(0)], result.ids)
        # The softmax of the logits, in float64.
        levels = (rgb(images[0]).astype(np.float64) - model.task.pixels.mean[::-1]) / model.task.pixels.std[::-1]
        image = torch.from_numpy(levels[..., ::-1].copy()).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            logits = model.network(image)["out"][0].double().numpy()
        shares = np.exp(logits - logits.max(0))
        np.testing.assert_allclose(probabilities, shares / shares.sum(0), atol=1e-4)

    def test_the_picture_has_image_and_legend(self, model, images, monkeypatch):
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        picture = model.predict(images[0]).show()
        assert isinstance(picture, Image.Image) and picture.width >= 320 and picture.height > 64 * picture.width / 96
        assert model.predict(np.zeros((8, 8, 3), np.uint8)).show().width == 320

    @pytest.mark.parametrize(
        "image, expected",
        [
            ("missing.png", r"missing\.png"),
            (np.zeros((4, 4), np.uint8), r"shape \[4, 4\]: give an array \[height, width, 3\]"),
            (np.zeros((0, 4, 3), np.uint8), r"shape \[0, 4, 3\]"),
            (np.zeros((4, 4, 3), np.int64), "of int64: give uint8"),
            (np.zeros((4, 4, 4), np.uint8), r"shape \[4, 4, 4\]"),
            (torch.zeros(1, 3, 4, 4), r"tensor of shape \[1, 3, 4, 4\]"),
            (Image.new("I;16", (4, 4)), "PIL's mode I;16"),
            (7, "is a int: give a path"),
        ],
    )
    def test_what_is_no_image_is_said_in_one_line(self, model, image, expected):
        with pytest.raises(Exception, match=expected) as error:
            model.predict(image)
        assert type(error.value).__name__ == "UserError" and "\n" not in str(error.value)


class TestNames:
    def test_networks_and_blocks_are_listed_with_help(self, monkeypatch):
        monkeypatch.setattr(torch.hub, "_get_cache_or_reload", lambda *words, **options: str(ROOT))
        names = torch.hub.list("owner/name", trust_repo=True)
        for network in ("dnl", "nl", "gc", "ann", "snl", "fcn", "psp", "criss_cross", "double_attention"):
            assert {f"{network}_{backbone}" for backbone in BACKBONES} <= set(names)
        own = {"segmentor", "insert_blocks", "insert_preset"}
        assert {f"{block}_block" for block in BLOCKS} | own <= set(names)
        assert not [name for name in names if not (name in own or name.endswith(("_block", *BACKBONES)))]
        assert "num_classes" in torch.hub.help("owner/name", "dnl_resnet101", trust_repo=True)
        assert "whitening" in torch.hub.help("owner/name", "disentangled_block", trust_repo=True)

    @pytest.mark.parametrize("name", ["dnl_resnet18", "snl_resnet18", "ann_mobilenet_v2", "criss_cross_resnet18"])
    def test_a_network_is_the_recipes(self, name):
        with torch.device("meta"):
            network = hub(name, num_classes=5).eval()
        assert network.head.classifier.out_channels == 5
        assert network(torch.empty(1, 3, 65, 65, device="meta"))["out"].shape == (1, 5, 65, 65)

    def test_a_block_is_put_into_a_network(self):
        from torchvision.models.resnet import BasicBlock

        network = torch.nn.ModuleDict({"layer1": torch.nn.Sequential(BasicBlock(16, 16))}).eval()
        x = torch.randn(1, 16, 8, 8)
        before = network["layer1"](x)
        for at in ("after", "before_relu"):
            twin = copy.deepcopy(network)
            assert hub("insert_blocks", twin, {"layer1": [-1]}, at=at) is twin
            assert torch.equal(twin["layer1"](x), before) and "layer1.0.inserted.value.weight" in twin.state_dict()

    def test_every_block_keeps_the_shape(self):
        for name in BLOCKS:
            block = hub(f"{name}_block", channels=32).eval()
            assert block(torch.randn(1, 32, 8, 8)).shape == (1, 32, 8, 8)
        block = hub("disentangled_block", channels=64)
        assert isinstance(block, torch.nn.Module) and block(torch.randn(2, 64, 5, 7)).shape == (2, 64, 5, 7)

    @pytest.mark.parametrize(
        "name, options, expected",
        [
            ("dnl_resnet18", {"num_classes": 1}, "num_classes is 1: it must be a whole number from 2 to 254"),
            ("dnl_resnet18", {"num_classes": 2.0}, "num_classes is 2.0"),
            ("dnl_resnet18", {"overrides": ["model.backbone.stride=8"]}, "unknown configuration key"),
            ("dnl_resnet18", {"pretrained": "/missing.pth"}, "does not exist"),
            ("disentangled_block", {"channels": 0}, "channels is 0"),
            ("disentangled_block", {"whitening": "all"}, "disentangled_block.whitening is 'all'"),
            ("disentangled_block", {"whitened": True}, "unknown option disentangled_block.whitened"),
            ("segmentor", {"checkpoint": "/missing"}, "does not exist"),
        ],
    )
    def test_mistakes_are_one_line(self, name, options, expected):
        with pytest.raises(Exception, match=re.escape(expected)) as error:
            hub(name, **options)
        assert type(error.value).__name__ == "UserError"


def test_both_copies_attend_side_by_side():
    """Operators of one name would replace each other; here ours were imported first."""
    ours, theirs = BLOCKS["disentangled"](32), hub("disentangled_block", channels=32)
    theirs.load_state_dict(ours.state_dict())
    assert type(ours) is not type(theirs)
    for block in (ours, theirs, ours):
        x = torch.ones(1, 32, 6, 6, requires_grad=True)
        block(x).sum().backward()
        assert x.grad.abs().sum() > 0


PROGRAM = """
import json, sys, threading
if BEFORE:
    import lib, datasets, utils
import torch
from torch.utils.data import DataLoader

class Images(torch.utils.data.Dataset):
    def __init__(self, path, pixels, read):
        self.path, self.pixels, self.read = path, pixels, read
    def __len__(self):
        return 2
    def __getitem__(self, index):
        return torch.from_numpy(self.read(self.path, 3).decode().astype("float32")).sum()

def main():
    path_before = list(sys.path)
    for line in LINES:
        exec(line, globals())
    import lib, datasets, utils
    assert (lib.VALUE, datasets.VALUE, utils.VALUE) == (1, 1, 1), sys.modules["lib"]
    assert not [name for name in sys.modules if name.startswith(("lib.", "datasets.", "exts"))]
    import lib.base
    assert lib.base.VALUE == 2
    assert [place for place in sys.path if place not in path_before] == [PRIVATE] and sys.path[-1] == PRIVATE
    found = []
    threads = [threading.Thread(target=lambda: found.append(model.predict("street.png"))) for _ in range(3)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert [(one.ids == result.ids).all() for one in found] == [True] * 3 and found[0].probabilities.shape[0] == 19
    # A loader's processes: what was forked goes on importing, what is started anew finds the package by itself.
    data = Images("street.png", model.task.pixels, sys.modules["dnl_hub.datasets.seg.bands"].open_bands)
    from pathlib import Path
    data.path = Path("street.png")
    sums = {kind: [float(x) for x in DataLoader(data, None, num_workers=1, multiprocessing_context=kind)]
            for kind in KINDS}
    json.dump({"ids": result.ids.tolist(), "sums": sums, "logits": list(logits.shape)}, open("out.json", "w"))

if __name__ == "__main__":
    main()
"""


def run_program(tmp_path, run, image, before, kinds):
    """The document's lines in a program whose own packages have our names; returns what it wrote."""
    for name in ("lib", "datasets", "utils"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("VALUE = 1")
        (tmp_path / name / "base.py").write_text("VALUE = 2")
    document = (ROOT / "README.md").read_text()
    section = document.split("\n## Using what was trained\n")[1].split("\n## ")[0]
    lines = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1].split("\n")
    lines = [line for line in lines if line]
    assert len(lines) == 10
    Image.open(image).save(tmp_path / "street.png")
    given = {"CHECKOUT": str(ROOT), "RUN": str(run), "LINES": lines, "BEFORE": before, "KINDS": kinds}
    given["PRIVATE"] = str(ROOT / "lib" / "hub" / "private")
    head = "\n".join(f"{name} = {value!r}" for name, value in given.items())
    (tmp_path / "program.py").write_text(f"{head}\n{PROGRAM}")
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "overlay.png").exists() and "road" in done.stdout
    return json.loads((tmp_path / "out.json").read_text())


@pytest.mark.parametrize(
    "before, kinds", [(False, ["fork"]), pytest.param(True, ["fork", "spawn", "forkserver"], marks=pytest.mark.slow)]
)
def test_the_documents_lines_run_beside_packages_of_the_same_names(tmp_path, scored, images, before, kinds):
    found = run_program(tmp_path, scored, images[0], before, kinds)
    expected = cv2.imread(str(scored / "val" / "label" / f"{images[0].stem}.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(found["ids"], expected) and found["logits"] == [1, 19, 65, 129]
    total = float(rgb(images[0]).astype(np.float64).sum())
    assert found["sums"] == {kind: [pytest.approx(total)] * 2 for kind in kinds}


def test_while_it_loads_others_packages_come_first(tmp_path, monkeypatch):
    """What some library imports by then, such as Hugging Face's ``datasets``, is not ours."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(ROOT)])
    seen = []
    code = torch.hub._load_entry_from_hubconf
    monkeypatch.setattr(torch.hub, "_load_entry_from_hubconf", lambda *words: seen.append([*sys.path]) or code(*words))
    hub("unary_block", channels=16)
    assert seen[0].index(str(ROOT)) > seen[0].index(str(tmp_path)) and str(ROOT) not in sys.path


def test_another_checkout_is_another_package(tmp_path):
    """Two versions in one program, each with its own code."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "hubconf.py").write_text((ROOT / "hubconf.py").read_text())
    for path in [*ROOT.glob("lib/**/*.py"), *ROOT.glob("datasets/**/*.py")]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    with_tables = tmp_path / "datasets" / "seg" / "tables"
    with_tables.symlink_to(ROOT / "datasets" / "seg" / "tables")
    first = hub("disentangled_block", channels=16)
    second = torch.hub.load(str(tmp_path), "disentangled_block", channels=16, source="local")
    assert type(first).__module__ == "dnl_hub.lib.models.blocks.disentangled"
    assert re.fullmatch(r"dnl_hub_[0-9a-f]{12}\.lib\.models\.blocks\.disentangled", type(second).__module__)
    assert Path(sys.modules[type(second).__module__].__file__).is_relative_to(tmp_path)
    assert second(first(torch.ones(1, 16, 4, 4))).shape == (1, 16, 4, 4)
