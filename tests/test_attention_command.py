"""``main.py attention``: sheets of chosen pixels, statistics of a split, and a line for each mistake."""

import json
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import FAST, RECIPE

import main
from lib.attention.maps import choose
from lib.attention.view import Grid, View
from lib.engine.checkpoint import CheckpointFiles
from lib.engine.runs import RunFolder
from lib.scores.attention import boundary_of
from lib.tasks import load_config, make_task
from lib.tasks.trained import open_trained

WORDS = (*FAST, "val.mode=ss", "model.head.options={inner: 8, width: 8}", "model.aux.enabled=false")
OS8 = "model.backbone.output_stride=8"


def written(folder, *overrides):
    """A checkpoint of random weights with a configuration."""
    config = load_config(RECIPE, [*WORDS, OS8, f"tag={folder.name}", *overrides])
    task = make_task(config)
    network = task.network()
    with torch.no_grad():
        for name, parameter in network.head.named_parameters():
            if "block" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    folder.mkdir()
    files = CheckpointFiles(folder, keep=1)
    files.save(
        {"model": network.state_dict(), "iteration": 5, "config": RunFolder(config).recorded, **task.texts},
        5,
        is_best=True,
    )
    return folder / "best.pth"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return written(tmp_path_factory.mktemp("attention") / "dnl")


@pytest.fixture
def attention(monkeypatch, capfd):
    """``main.py attention`` in this process: attention(*words) -> (status, stdout, stderr)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["main.py", "attention", *map(str, words)])
        try:
            status = main.main()
        except SystemExit as end:
            status = end.code
        return status, *capfd.readouterr()

    return call


@pytest.fixture
def error_of(attention, tmp_path):
    def call(*words):
        status, _, error = attention(*words, "--out", tmp_path / "none")
        assert status == 2 and error.startswith("error: ") and len(error.splitlines()) == 1, error
        assert not (tmp_path / "none").exists()
        return error

    return call


def at_positions(ids):
    """The label at the 9 x 13 positions of the network's map, whose corners are the image's."""
    return ids[
        np.ix_(*(np.floor(np.linspace(0.5, side - 0.5, count)).astype(int) for side, count in ((64, 9), (96, 13))))
    ]


def first_image(data_root):
    return sorted((data_root / "val" / "image").iterdir())[0]


def test_a_sheet_has_each_term_at_the_images_size_and_its_numbers(attention, checkpoint, data_root, tmp_path):
    image = first_image(data_root)
    words = (checkpoint, image, "--label", data_root, "--out", tmp_path / "a", "--clip", "90")
    status, out, error = attention(*words, "--at", "10,60", "90,5", "device=cpu")
    assert status == 0, error
    facts = json.loads((tmp_path / "a" / "attention.json").read_text())
    assert [query["at"] for query in facts["queries"]] == [[10, 60], [90, 5]] and facts["map"] == [9, 13]
    assert set(out.split("\n")[:-1]) == {str(path) for path in (tmp_path / "a").iterdir()}
    sheet = cv2.imread(str(tmp_path / "a" / f"{image.stem}_10_60.png"))
    assert sheet.shape[1] == 4 * 96 + 3 * 8
    assert facts["queries"][0]["position"] == [8, 1] and facts["queries"][1]["position"] == [1, 11]

    # the shares in the region, from the block itself and the label
    trained = open_trained(checkpoint)
    seen = View(trained)(torch.from_numpy(_normalised(trained, image)))
    ids = trained.task.table.train_id_of[cv2.imread(str(data_root / "val/label" / f"{image.stem}.png"), 0)]
    centres = at_positions(ids)
    for name, term in seen.attention.terms.items():
        row = term.rows([8 * 13 + 1])[0, 0].reshape(9, 13).numpy()
        numbers = facts["queries"][0]["terms"][name]
        share = np.abs(row[centres == centres[8, 1]]).sum() / np.abs(row).sum()
        assert numbers["share_in_region"] == pytest.approx(share, rel=1e-5)
        assert numbers["highest"] == pytest.approx(row.max(), rel=1e-5)
    assert facts["gamma"] == pytest.approx(trained.network.head.block.gamma.item())


def _normalised(trained, image):
    out = np.empty((3, 64, 96), np.float32)
    trained.task.pixels.normalise(cv2.imread(str(image)), out)
    return out


def test_queries_are_chosen_where_none_are_asked_for(attention, checkpoint, data_root, tmp_path):
    status, _, error = attention(checkpoint, first_image(data_root), "--out", tmp_path / "b")
    assert status == 0, error
    facts = json.loads((tmp_path / "b" / "attention.json").read_text())
    assert [query["at"] for query in facts["queries"]] == [[24, 16], [72, 16], [24, 48], [72, 48]]
    assert "share_in_region" not in facts["queries"][0]["terms"]["pairwise"]
    label = np.zeros((20, 30), np.uint8)
    label[:, 20:] = 3
    assert [label[y, x] for x, y in choose(label, label.shape, 5)] == [0, 3]
    assert choose(np.full((8, 8), 255, np.uint8), (8, 8), 5)[0] == (2, 2)


def test_statistics_of_a_split(attention, checkpoint, data_root, tmp_path):
    words = ("--stats", f"data.root={data_root}", "--out", tmp_path / "s", "--radius", "2")
    status, out, error = attention(checkpoint, *words)
    assert status == 0, error
    stats = json.loads((tmp_path / "s" / "stats.json").read_text())
    assert stats["images"] == len(stats["rows"]) == 3 and stats["split"] == "val" and stats["block"] == "head.block"
    for name in ("pairwise", "unary", "uniform", "untrained pairwise", "untrained unary"):
        values = [row[name]["within_category"] for row in stats["rows"]]
        assert stats["mean"][name]["within_category"] == pytest.approx(np.mean(values)) and name in out
    row = stats["rows"][0]
    trained = open_trained(checkpoint)
    ids = trained.task.table.train_id_of[cv2.imread(str(data_root / "val/label" / f"{row['name']}.png"), 0)]
    ids = at_positions(ids)
    assert row["uniform"]["boundary"] == pytest.approx(boundary_of(torch.from_numpy(ids).long(), 19, 2).double().mean())
    seen = View(trained)(torch.from_numpy(_normalised(trained, first_image(data_root))))
    matrix, flat = seen.attention.terms["pairwise"].rows(range(117))[0].double().numpy(), ids.ravel()
    within = np.mean([matrix[i, flat == flat[i]].sum() for i in range(117) if flat[i] < 19])
    assert row["pairwise"]["within_category"] == pytest.approx(within, rel=1e-5)
    assert row["untrained pairwise"] != row["pairwise"] and 0 < row["unary_share"] < 1
    assert (tmp_path / "s" / "stats.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_are_one_line(error_of, checkpoint, data_root, tmp_path):
    image = first_image(data_root)
    assert "--at 96,0 is outside" in error_of(checkpoint, image, "--at", "96,0")
    assert "give X,Y in pixels" in error_of(checkpoint, image, "--at", "ten")
    assert "takes a network and an image" in error_of(checkpoint)
    assert "--stats takes a network and no image" in error_of(checkpoint, image, "--stats")
    assert "leave them out with --stats" in error_of(checkpoint, "--stats", "--at", "1,1", f"data.root={data_root}")
    assert "below 100" in error_of(checkpoint, image, "--clip", "120")
    assert "--block x: " in error_of(checkpoint, image, "--block", "x") and "head.block" in error_of(
        checkpoint, image, "--block", "x"
    )
    assert "has no label of" in error_of(checkpoint, tmp_path_copy(image, tmp_path / "other.png"), "--label", data_root)
    assert "its image 96 x 64" in error_of(checkpoint, image, "--label", picture(tmp_path / "small.png", (4, 5)))
    assert "is not a cityscapes label id" in error_of(
        checkpoint, image, "--label", picture(tmp_path / "ids.png", (64, 96), 77)
    )
    assert "have no labels" in error_of(checkpoint, "--stats", "--split", "test", unlabelled(data_root, tmp_path))


def tmp_path_copy(image, path):
    path.write_bytes(image.read_bytes())
    return path


def picture(path, size, value=0):
    cv2.imwrite(str(path), np.full(size, value, np.uint8))
    return path


def unlabelled(data_root, tmp_path):
    (tmp_path / "data" / "test").mkdir(parents=True)
    (tmp_path / "data" / "test" / "image").symlink_to(data_root / "test" / "image")
    return f"data.root={tmp_path / 'data'}"


def test_a_network_without_attention_is_named(error_of, data_root, tmp_path):
    fcn = written(tmp_path / "fcn", "model.head.name=fcn")
    assert "has no block with an attention to show (model.head.name is fcn)" in error_of(fcn, first_image(data_root))


def test_positions_are_where_pixels_are_whatever_resizing_and_padding_did():
    grid = Grid(image=(60, 100), resized=(30, 50), padded=(32, 64))
    label = np.arange(60)[:, None] * 1000 + np.arange(100)
    found = grid.label(label, (4, 8))
    assert found[0, 0] == 8 * 1000 + 8 and found[3, 5] == 56 * 1000 + 88
    assert (found[:, 6:] == grid.label(label, (4, 8))[:, 6:]).all() and (found[:, 7] == 255).all()
    for y, x in np.ndindex(4, 6):
        pixel = int(found[y, x])
        assert grid.position(pixel % 1000, pixel // 1000, (4, 8)) == y * 8 + x
    assert grid.pixels((4, 8)) == (64, 128)
    ramp = np.repeat(np.arange(8, dtype=np.float32)[None], 4, axis=0)
    spread = grid.spread(ramp)
    assert spread.shape == (60, 100) and spread[30, 8] == pytest.approx(0, abs=0.05)
    assert spread[30, 88] == pytest.approx(5, abs=0.05)


def test_positions_reach_the_corners_where_the_network_has_them_so():
    grid = Grid(image=(65, 97), resized=(65, 97), padded=(65, 97), align_corners=True)
    found = grid.label(np.arange(65)[:, None] * 1000 + np.arange(97), (9, 13)).numpy()
    assert (found == 8 * (np.arange(9)[:, None] * 1000 + np.arange(13))).all() and grid.pixels((9, 13)) == (72, 104)
    assert grid.position(3, 5, (9, 13)) == 13 and grid.position(96, 64, (9, 13)) == 9 * 13 - 1
    spread = grid.spread(np.repeat(np.arange(13, dtype=np.float32)[None], 9, axis=0))
    np.testing.assert_allclose(spread, np.repeat(np.arange(97)[None] / 8, 65, axis=0), atol=1e-5)
