"""``main.py export``: files for other runtimes that say what the checkpoint says."""

import io
import json

import cv2
import numpy as np
import pytest
import torch
from conftest import FAST, RECIPE

import main
from datasets.seg.classes import load_table
from lib.engine.checkpoint import CheckpointFiles
from lib.engine.runs import RunFolder
from lib.export.check import Difference, Feed, relative
from lib.tasks import load_config, make_task
from lib.tasks.trained import open_trained

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

WORDS = (
    *FAST,
    "tag=tiny",
    "val.mode=ss",
    "model.head.options={inner: 16, width: 16}",
    "data.mean=[100,110,120]",
    "data.std=[50,60,70]",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of a small DNL whose norms and gain are not what they start as."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNS_DIR", str(tmp_path_factory.mktemp("export") / "runs"))
        config = load_config(RECIPE, WORDS)
        task, folder = make_task(config), RunFolder(config)
    network = task.network()
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
            torch.nn.init.normal_(layer.bias, generator=generator)
    torch.nn.init.ones_(network.head.block.gamma)
    folder.create()
    files = CheckpointFiles(folder.checkpoints, keep=1)
    state = {"model": network.state_dict(), "iteration": 3, "config": folder.recorded, **task.texts}
    files.save(state, 3, is_best=True)
    return folder.path


@pytest.fixture
def export(run, monkeypatch, capfd):
    """``main.py export RUN ...`` in this process: export(*words) -> (status, stdout, stderr)."""

    def call(*words, of=run):
        monkeypatch.setattr("sys.argv", ["main.py", "export", *map(str, [of, *words])])
        try:
            status = main.run_command()
        except SystemExit as end:
            status = end.code
        return (status, *capfd.readouterr())

    return call


def picture(height, width):
    """A picture as a library other than ours would read it: uint8 [H, W, 3], RGB."""
    generator = np.random.default_rng(height)
    return cv2.resize(generator.integers(0, 256, (5, 6, 3), np.uint8), (width, height))


def expected_logits(run, image):
    """Of an RGB picture, by the formula of the configuration: BGR, less the mean, over the deviation."""
    network = open_trained(run, ["device=cpu"]).network
    normalised = (image[..., ::-1].astype(np.float64) - [100, 110, 120]) / [50, 60, 70]
    with torch.no_grad():
        return network(torch.from_numpy(normalised.transpose(2, 0, 1)[None].astype(np.float32)))["out"].numpy()


class TestOnnx:
    def test_any_size_of_raw_images_goes_in_and_the_checkpoints_logits_come_out(self, export, run, tmp_path):
        path = tmp_path / "dnl net.onnx"
        status, told, error = export(path, "--dynamic", "--with-preprocessing", "--size", 64, 96)
        assert status == 0, error
        assert "largest difference from the checkpoint" in told and "batch norms are folded" in told
        session = onnxruntime.InferenceSession(path.read_bytes())
        (given,), (made,) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.type, given.shape) == ("image", "tensor(uint8)", ["batch", "height", "width", 3])
        assert (made.name, made.shape) == ("logits", ["batch", 19, "height", "width"])
        for size in ((64, 96), (57, 80), (90, 41)):
            image = picture(*size)
            logits = session.run(None, {"image": np.stack([image, image, image])})[0]
            assert relative(logits[1:2], expected_logits(run, image)) < 1e-4
        model = onnx.load_from_string(path.read_bytes())
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"} and not model.functions
        assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
        notes = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
        table = load_table("cityscapes")
        assert notes["classes"] == list(table.names) and notes["palette"] == table.palette.tolist()
        assert notes["mean"] == [100, 110, 120] and notes["std"] == [50, 60, 70] and notes["color_order"] == "bgr"
        assert notes["recipe"] == "dnl_r101" and notes["input"]["color_order"] == "rgb" and notes["iteration"] == 3
        assert [file.name for file in tmp_path.iterdir()] == ["dnl net.onnx"]

    def test_label_ids_come_out_where_asked_for_and_normalised_images_go_in_by_default(self, export, run, tmp_path):
        path = tmp_path / "ids.onnx"
        status, _, error = export(path, "--ids", "--size", 40, 56)
        assert status == 0, error
        session = onnxruntime.InferenceSession(path.read_bytes())
        assert session.get_inputs()[0].shape == [1, 3, 40, 56]
        image = picture(40, 56)
        feed = Feed(make_task(load_config(RECIPE, WORDS)).pixels)
        ids = session.run(None, {"image": feed.given(image[None, ..., ::-1])})[0]
        classes = expected_logits(run, image).argmax(1)
        assert ids.dtype == np.uint8 and np.mean(ids != load_table("cityscapes").id_of[classes]) < 1e-3


class TestPt2:
    def test_it_runs_without_this_project_and_knows_its_size(self, export, run, tmp_path):
        path = tmp_path / "dnl.pt2"
        status, told, error = export(path, "--no-fold", "--size", 320, 448)
        assert status == 0, error
        assert "blocks of queries" not in told and "folded" not in told
        extra = {"metadata.json": ""}
        program = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra)
        assert json.loads(extra["metadata.json"])["input"]["size"] == [320, 448]
        assert not [node for node in program.graph.nodes if "dnl" in str(node.target)]


@pytest.mark.parametrize(
    "words, expected",
    [
        (["out.pth"], "name a file that ends in .onnx or .pt2"),
        (["nowhere/out.onnx"], "nowhere is not a folder"),
        (["out.onnx", "--size", "0", "7"], "--size 0 7: sides are 1 to"),
        (["out.onnx", "--size", "1", "99999"], "sides are 1 to 16384"),
        (["out.onnx", "--whole-map-limit", "0"], "must be at least 1"),
        (["out.onnx", "another"], "'another' is one word too many"),
        (["out.pt2", "--int8"], "--int8 makes an .onnx file"),
        (["out.onnx", "--int8", "--ids"], "leave --ids out"),
        (["out.onnx", "--int8", "data.root=nowhere"], "nowhere"),
        (["out.onnx", "--dynamik"], "unrecognized arguments: --dynamik"),
        (["out.onnx", "data.rot=x"], "data.rot"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(export, tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    status, _, error = export(*words)
    assert status == 2 and expected in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_a_checkpoint_or_the_libraries_nothing_is_written(export, tmp_path, monkeypatch):
    status, _, error = export(tmp_path / "out.onnx", of=tmp_path / "nothing")
    assert status == 2 and "nothing" in error and error.count("\n") == 1
    monkeypatch.setattr("lib.export.formats.find_spec", lambda name: None if name == "onnxscript" else name)
    status, _, error = export(tmp_path / "out.onnx")
    assert (status, error) == (
        2,
        "error: an .onnx file needs onnxscript: pip install onnxscript, or name a .pt2\n",
    )
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_not_written(export, tmp_path, monkeypatch):
    """A runtime that computes something else: all logits moved by a thousandth of their range."""
    from lib.export import formats

    write, load = formats.WRITERS[".pt2"]

    def wrong(content):
        run = load(content)
        return lambda image: (logits := run(image)) + 1e-3 * np.ptp(logits)

    monkeypatch.setitem(formats.WRITERS, ".pt2", (write, wrong))
    status, _, error = export(tmp_path / "out.pt2", "--size", 33, 47)
    assert status == 2 and "differ by more than 1e-04" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_is_no_number_does_not_pass():
    assert not Difference((1, 2, 2), float("nan")).passes and Difference((1, 2, 2), 0.0).passes
    assert relative(np.zeros((1, 2)), np.zeros((1, 3))) == float("inf")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--with-preprocessing"], ["--dynamic"]])
def test_int8_keeps_the_scores_of_val_about_and_both_are_recorded(export, run, tmp_path, data_root, words):
    path = tmp_path / "small.onnx"
    status, told, error = export(path, "--int8", *words, f"data.root={data_root}", "--calibration", 4)
    assert status == 0, error
    assert "float32 on val: miou" in told and "int8 on val: miou" in told
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["file"] == "small.onnx" and facts["bytes"]["int8"] == path.stat().st_size
    assert facts["bytes"]["int8"] < 0.4 * facts["bytes"]["float32"]
    whole, small = (facts["val"][what]["pixel_accuracy"] for what in ("float32", "int8"))
    assert abs(whole - small) < 0.05
    if words == ["--dynamic"]:
        # The checkpoint's own score, by the network that was not exported
        trained = open_trained(run, ["device=cpu", f"data.root={data_root}"])
        tally = trained.task.tally(torch.device("cpu"))
        for item in trained.task.eval_data("val"):
            logits = trained.network(item["image"][None])["out"]
            tally.add({"label": item["label"][None], "meta": [item["meta"]]}, logits.argmax(1).to(torch.uint8))
        assert abs(trained.task.describe(tally.scores()).row["pixel_accuracy"] - whole) < 1e-3
    session = onnxruntime.InferenceSession(path.read_bytes())
    assert "classes" in session.get_modelmeta().custom_metadata_map
