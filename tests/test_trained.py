"""A checkpoint is enough: it carries configuration and classes, and a run folder stands for its best one."""

import shutil

import pytest
import torch
from conftest import FAST, RECIPE

from datasets.seg.classes import load_table
from lib.base.errors import UserError
from lib.engine.checkpoint import CheckpointFiles
from lib.engine.runs import RunFolder
from lib.tasks import load_config, make_task
from lib.tasks.trained import open_trained
from lib.weights.files import find_checkpoint
from lib.weights.loading import FORMAT

NARROW = ("model.head.name=fcn", "model.head.options={width: 8}")
WORDS = (*FAST, *NARROW, "tag=tiny", "val.mode=ss")
SMALL = (*FAST, *NARROW, "train.max_iters=2", "val.interval=0")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run folder with a best and a latest checkpoint, of iterations 3 and 5."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNS_DIR", str(tmp_path_factory.mktemp("runs")))
        config = load_config(RECIPE, WORDS)
        task, folder = make_task(config), RunFolder(config)
        folder.create()
    network = task.network()
    files = CheckpointFiles(folder.checkpoints, keep=1)
    for iteration in (3, 5):
        state = {"model": network.state_dict(), "iteration": iteration, "config": folder.recorded, **task.texts}
        files.save(state, iteration, is_best=iteration == 3)
    return folder.path


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A copy of it that the test may damage."""
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))
    yield shutil.copytree(made, tmp_path / "runs" / made.name)
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


def rewrite(path, **entries):
    """Replace entries of a checkpoint; None removes one."""
    state = torch.load(path, weights_only=True) | entries
    torch.save({name: value for name, value in state.items() if value is not None}, path)


class TestOpening:
    def test_a_checkpoint_anywhere_is_enough(self, run, tmp_path):
        shutil.copy(run / "checkpoints" / "latest.pth", tmp_path / "alone.pth")
        expected = torch.load(tmp_path / "alone.pth", weights_only=True)["model"]
        shutil.rmtree(run)
        trained = open_trained(tmp_path / "alone.pth", ["val.mode=sscrop"])
        assert (trained.config.val.mode, trained.config.model.backbone.name) == ("sscrop", "resnet18")
        assert trained.iteration == 5 and trained.path == tmp_path / "alone.pth" and not trained.network.training
        assert trained.task.table.text == load_table("cityscapes").text
        assert all(torch.equal(value, expected[name]) for name, value in trained.network.state_dict().items())
        assert trained.network(torch.zeros(1, 3, 48, 64))["out"].shape == (1, 19, 48, 64)

    def test_a_run_folder_stands_for_its_best_checkpoint_and_its_own_configuration(self, run):
        assert open_trained(run).iteration == 3
        (run / "checkpoints" / "best.pth").unlink()
        assert open_trained(run).iteration == 5
        (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("mode: ss\n", "mode: mscrop\n"))
        assert open_trained(run).config.val.mode == "mscrop"
        assert open_trained(run / "checkpoints" / "latest.pth").config.val.mode == "ss"

    def test_one_of_before_finds_the_configuration_of_its_run(self, run, tmp_path):
        best = run / "checkpoints" / "best.pth"
        rewrite(best, config=None, classes=None)
        assert open_trained(best).config.val.mode == "ss"
        (tmp_path / "link.pth").symlink_to(best)
        assert open_trained(tmp_path / "link.pth").iteration == 3
        shutil.copy(best, tmp_path / "alone.pth")
        with pytest.raises(UserError, match=r"alone\.pth carries no configuration.*put config\.yaml there"):
            open_trained(tmp_path / "alone.pth")

    def test_a_folder_that_is_no_run_and_another_projects_checkpoint_are_named(self, tmp_path):
        with pytest.raises(UserError, match=r"is no run folder: it has no checkpoints/best\.pth or latest\.pth"):
            open_trained(tmp_path)
        torch.save({"backbone.conv1.weight": torch.ones(1), "decode_head.x": torch.ones(1)}, tmp_path / "foreign.pth")
        with pytest.raises(UserError, match=r"another project's.*import-weights"):
            open_trained(tmp_path / "foreign.pth")
        with pytest.raises(UserError, match="does not exist"):
            open_trained(tmp_path / "nothing.pth")

    @pytest.mark.parametrize(
        "entries, expected",
        [
            ({"config": 7}, "config is 7, not a text"),
            ({"config": "x" * 70_000}, "config is longer than the 65,536 bytes"),
            ({"config": "seed: [1"}, "no valid YAML there: line 1"),
            ({"config": "- 1"}, "must hold 'key: value' lines"),
            ({"config": "_base_: /etc/passwd"}, "unknown configuration key _base_"),
            ({"config": "task: other"}, "task=other: choose one of"),
            ({"config": "train: {lr: .inf}"}, "train.lr=inf: must be finite"),
            ({"config": "data: {crop_size: [9, 9]}"}, "holds another model"),
            ({"classes": ["id"]}, "classes is a list, not a text"),
            ({"classes": "id,name\n1,road\n"}, "is no class table: it has no column train_id"),
            ({"classes": "id,name,train_id,red,green,blue,weight\n1,road,0,1,1,1,\n"}, "holds another model"),
            ({"classes": "x" * (1 << 21)}, "classes is longer than"),
        ],
    )
    def test_hostile_texts_end_in_one_line(self, run, entries, expected):
        latest = run / "checkpoints" / "latest.pth"
        rewrite(latest, **entries)
        with pytest.raises(UserError) as error:
            open_trained(latest)
        assert expected in str(error.value) and "latest.pth" in str(error.value)


def test_the_configuration_with_defaults_alone_is_that_of_another_network(run):
    """What a text leaves out has its default; nothing comes from the files around."""
    latest = run / "checkpoints" / "latest.pth"
    rewrite(latest, config="{}")
    with pytest.raises(UserError, match="holds another model"):
        open_trained(latest)


@pytest.mark.parametrize("named", ["", "checkpoints"])
def test_a_run_folder_serves_where_a_checkpoint_is_asked_for(run, named):
    assert find_checkpoint(run / named) == run / "checkpoints" / "best.pth"
    assert find_checkpoint(run / named, ("latest",)) == run / "checkpoints" / "latest.pth"
    folder = RunFolder(load_config(RECIPE, [*WORDS, f"checkpoint={run / named}"]))
    assert folder.checkpoint(("latest",)).name == "latest.pth" and folder.checkpoint(("best",)).name == "best.pth"


def test_training_starts_from_a_run_and_leaves_texts_in_its_checkpoints(train, runs):
    assert train("first", *SMALL).status == 0
    state = torch.load(runs("first").checkpoint(), weights_only=True)
    assert state["format"] == FORMAT and state["classes"] == load_table("cityscapes").text
    assert state["config"] == (runs("first").path / "config.yaml").read_text()
    outcome = train("second", *SMALL, f"pretrained={runs('first').path}")
    assert outcome.status == 0 and "latest.pth: " in outcome.stdout and "of the whole network matched" in outcome.stdout
    assert open_trained(runs("second").path).iteration == 2


class TestOwnClasses:
    """``data.dataset=auto``: DATA_DIR's table may have become another since the training."""

    @pytest.fixture
    def own(self, data_copy, runs, command, train):
        (data_copy / "classes.csv").write_text(load_table("cityscapes").text)
        assert train("own", *SMALL, "data.dataset=auto", data=data_copy).status == 0
        folder = runs("own").path.parents[2] / "auto" / "dnl_r101" / "own"
        validate = lambda: command("val", "tag=own", "data.dataset=auto", f"data.root={data_copy}")  # noqa: E731
        return data_copy / "classes.csv", folder, validate

    def test_validation_uses_the_runs_own_table_and_refuses_other_classes(self, own, command):
        table, folder, validate = own
        original = table.read_text()
        before = validate()
        assert before.status == 0 and "class table" not in before.stdout
        scores = (folder / "val" / "metrics.json").read_text()
        # Another colour and another ignored id: the same classes.
        table.write_text(original.replace("128,64,128", "1,2,3").replace("\n", "\n99,new,,0,0,0,\n", 1))
        after = validate()
        assert after.status == 0 and after.stdout.count("has the same classes, but differs otherwise") == 1
        assert (folder / "val" / "metrics.json").read_text() == scores
        table.unlink()
        assert "there is no" in validate().stdout or "is used: " in validate().stdout
        table.write_text(original.replace(",road,", ",street,"))
        assert "class 0 is road with id 7 there and street with id 7 in the class table of data" in validate().error
        resumed = command("resume", "tag=own", "data.dataset=auto", "train.max_iters=3")
        assert "trained on other classes than the data have" in resumed.error
