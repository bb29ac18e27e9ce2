"""Configuration: merging, types, ranges and suggestions; and the published recipe is what was published."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from datasets.seg.classes import load_table
from lib.base.errors import UserError
from lib.models import BLOCKS, HEADS
from lib.recipes import to_yaml
from lib.tasks import load_config, make_task

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "seg" / "cityscapes" / "dnl_r101.yaml"
RECIPES = sorted((ROOT / "configs" / "seg").glob("*/*.yaml"))
FACTS = ROOT.parent / "shared" / "spec" / "recipes.md"


def numbers(text):
    """All numbers in a text, without their signs."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", text)]


@pytest.fixture
def write(tmp_path):
    """Write a YAML file: write(name, content)."""

    def call(name, content):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(content)
        return path

    return call


class TestMerging:
    def test_a_file_names_only_what_differs(self, write):
        config = load_config(write("mine.yaml", "train: {lr: 0.5}"), [])
        assert config.train.lr == 0.5
        assert config.train.max_iters == 60_000
        assert config.recipe == "mine"

    def test_later_parents_then_the_file_then_the_command_line_win(self, write):
        write("base/a.yaml", "seed: 1\ntrain: {lr: 0.1, power: 0.1, momentum: 0.1, batch_size: 11}")
        write("base/b.yaml", "_base_: a.yaml\ntrain: {power: 0.2, momentum: 0.2, batch_size: 12}")
        write("base/c.yaml", "train: {momentum: 0.3, batch_size: 13}")
        file = write("mine.yaml", "_base_: [base/b.yaml, base/c.yaml]\ntrain: {batch_size: 14}")
        train = load_config(file, ["train.batch_size=15"]).train
        assert (train.lr, train.power, train.momentum, train.batch_size) == (0.1, 0.2, 0.3, 15)
        assert load_config(file, []).train.batch_size == 14
        assert load_config(file, []).seed == 1

    def test_lists_are_replaced_and_not_joined(self, write):
        assert load_config(write("a.yaml", "data: {crop_size: [3, 4]}"), []).data.crop_size == [3, 4]

    def test_the_last_word_of_the_command_line_wins(self):
        assert load_config(RECIPE, ["seed=1", "seed=2"]).seed == 2

    def test_what_is_printed_can_be_fed_back(self, write):
        overrides = [
            "tag=123",
            "train.amp=true",
            "train.lr=1e-3",
            "data.root=/a b/c: d",
            "model.head.block.options.eps=1",
            "loss.ohem_threshold=null",
        ]
        printed = to_yaml(load_config(RECIPE, overrides))
        assert to_yaml(load_config(write("again.yaml", printed), [])) == printed
        assert yaml.safe_load(printed)["data"]["root"] == "/a b/c: d"
        assert yaml.safe_load(printed)["loss"]["ohem_threshold"] is None

    def test_a_file_of_before_a_key_was_there_has_its_default(self, write):
        tree = yaml.safe_load(to_yaml(load_config(RECIPE, ["loss.ohem_threshold=0.6"])))
        for key in ("mean", "over", "focal_alpha"):
            del tree["loss"][key]
        loss = load_config(write("old.yaml", yaml.safe_dump(tree)), []).loss
        assert (loss.mean, loss.over, loss.focal_alpha, loss.ohem_threshold) == ("valid", "batch", 1.0, 0.6)

    def test_the_command_prints_it_and_reads_it_back(self, command, write):
        printed = command("train", "--print-config", "seed=3", "data.root=somewhere")
        assert printed.status == 0 and "seed: 3" in printed.stdout
        again = command("train", "--print-config", config=write("again.yaml", printed.stdout))
        assert again.stdout == printed.stdout

    def test_checkpoint_is_short_for_its_file(self):
        assert load_config(RECIPE, ["checkpoint=/x/y.pth"]).checkpoint.file == "/x/y.pth"

    def test_yaml_booleans_choose_the_precision(self, write):
        assert load_config(write("a.yaml", "train: {amp: true}"), []).train.amp == "true"


class TestMistakes:
    @pytest.mark.parametrize(
        "override, words",
        [
            ("train.max_itres=3", ["train.max_itres", "did you mean train.max_iters?"]),
            ("trian.max_iters=3", ["trian", "did you mean train?"]),
            ("max_iters=3", ["max_iters", "did you mean train.max_iters?"]),
            ("model.backbone.stem.kind=deep", ["model.backbone.stem"]),
            ("train.max_iters=many", ["train.max_iters", "many"]),
            ("train.max_iters=1.5", ["train.max_iters", "1.5"]),
            ("data.crop_size=769", ["data.crop_size"]),
            ("data.crop_size=[769]", ["data.crop_size", "2 entries"]),
            ("data.crop_size=[769,0]", ["data.crop_size", "positive"]),
            ("data.scale=[2,0.5]", ["data.scale", "lower bound"]),
            ("data.flip=1.5", ["data.flip", "0 to 1"]),
            ("train=3", ["train", "group"]),
            ("train.batch_size=0", ["train.batch_size=0", "at least 1"]),
            ("train.lr=nan", ["train.lr=nan", "at least 0"]),
            ("train.lr=null", ["train.lr", "None"]),
            ("loss.ohem_threshold=", ["loss.ohem_threshold=", "no value"]),
            ("loss.ohem_threshold=2", ["loss.ohem_threshold=2", "0 to 1", "null"]),
            ("loss.mean=most", ["loss.mean=most", "valid, labelled, all"]),
            ("loss.over=machine", ["loss.over=machine", "batch, process"]),
            ("seed=-1", ["seed=-1", "at least 0"]),
            ("val.mode=crops", ["val.mode=crops", "ss, sscrop"]),
            ("val.stride=0", ["val.stride", "above 0"]),
            ("val.stride=770", ["val.stride=770", "at most 769"]),
            ("val.window=[769]", ["val.window=[769]", "[width, height]"]),
            ("val.window=[769,0]", ["val.window=[769, 0]", "[width, height]"]),
            ("val.scales=[]", ["val.scales=[]", "positive"]),
            ("val.scales=[1,-1]", ["val.scales", "positive"]),
            ("val.long_side=1040", ["val.long_side=1040", "val.short_side"]),
            ("val.combine=max", ["val.combine=max", "sum, mean, softmax"]),
            ("val.interpolation=nearest", ["val.interpolation=nearest", "bilinear, bicubic"]),
            ("val.resize=nearest", ["val.resize=nearest", "centres, torchcv, mmseg"]),
            ("val.windows=whole", ["val.windows=whole", "torchcv, mmseg"]),
            ("val.pad_multiple=0", ["val.pad_multiple=0", "at least 1"]),
            ("device=gpu", ["device=gpu", "auto, cpu, cuda"]),
            ("tag=a/b", ["tag=a/b", "'/'"]),
            ("tag=${other}", ["tag", "other"]),
            ("data.crop_size=[", ["data.crop_size"]),
            ("faster", ["faster", "key=value"]),
        ],
    )
    def test_a_wrong_override_is_named_with_what_would_be_right(self, override, words):
        with pytest.raises(UserError) as error:
            load_config(RECIPE, [override])
        message = str(error.value)
        assert "\n" not in message
        assert all(word in message for word in words), message

    @pytest.mark.parametrize(
        "content, words",
        [
            ("train: {momentun: 0.9}", ["mine.yaml", "train.momentun", "did you mean train.momentum?"]),
            ("train: {momentum: high}", ["mine.yaml", "train.momentum", "high"]),
            ("train: 3", ["mine.yaml", "group"]),
            ("train: {", ["mine.yaml", "not valid YAML"]),
            ("- 3", ["mine.yaml"]),
            ("_base_: other.yaml", ["other.yaml does not exist"]),
            ("_base_: mine.yaml", ["mine.yaml", "names itself"]),
        ],
    )
    def test_a_wrong_file_is_named(self, write, content, words):
        with pytest.raises(UserError) as error:
            load_config(write("mine.yaml", content), [])
        message = str(error.value)
        assert "\n" not in message
        assert all(word in message for word in words), message

    def test_unknown_keys_and_missing_files_end_the_command_with_one_line(self, command, runs):
        assert "did you mean train.lr?" in command("train", "train.lrr=1").error
        assert "nowhere.yaml does not exist" in command("train", config="nowhere.yaml").error

    def test_an_unknown_phase_ends_the_command_with_one_line(self, command):
        error = command("trian").error
        assert "trian" in error and "resume" in error


class TestRecipes:
    @pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
    def test_every_recipe_loads_under_its_name_and_fits_its_folder(self, recipe):
        config = load_config(recipe, [])
        assert config.recipe == recipe.stem
        assert config.data.dataset == {"custom": "auto"}.get(recipe.parent.name, recipe.parent.name)

    def test_cityscapes_is_the_published_recipe(self):
        if not FACTS.exists():
            pytest.skip("the table of published recipes is not here")
        facts = FACTS.read_text()
        row = dict(re.findall(r"^\| ([\w ,/]+?) \| (.+?) \|", facts, re.MULTILINE))
        config = load_config(RECIPE, [])
        model, data, loss, train = config.model, config.data, config.loss, config.train

        assert data.crop_size == numbers(row["crop"])
        assert [*data.scale, *data.aspect, data.brightness, data.flip] == numbers(row["augmentation, in order"])
        assert train.batch_size == numbers(row["batch"])[0]
        assert [train.lr, train.weight_decay] == numbers(row["base lr / weight decay"])
        assert train.max_iters == int(row["iterations"].replace(" ", ""))
        assert list(load_table("cityscapes").weights) == numbers(row["class weights"]) and loss.class_weights
        assert config.val.mode == "sscrop" and config.val.stride == numbers(row["validation"])[2]
        backbone = (model.backbone.stem, model.backbone.name, model.backbone.output_stride, model.backbone.multi_grid)
        assert backbone == ("deep", "resnet101", 8, [1, 1, 1])
        assert row["backbone"] == "3x3 (deep-stem) ResNet-101, output stride 8, multi-grid 1 1 1"

        common = " ".join(facts.split("Common:")[1].split("\n\n")[0].split())
        assert f"momentum {train.momentum}" in common and f"** {train.power}" in common
        assert f"minus ({', '.join(map(str, data.mean))}), std 1" in common
        assert data.color_order == "bgr" and data.std == [1, 1, 1]
        assert f"threshold {loss.ohem_threshold}, at least 100 000 pixels" in common
        assert (loss.name, loss.ohem_min_kept) == ("ohem", 100_000)
        assert f"weight {loss.aux_weight}" in common and model.aux.enabled

        # | dnl | nonlocal_nowd | ln_nostd | - | off | yes | query, key | no / no |
        options = model.head.block.options
        assert (model.head.name, model.head.block.name) == ("nonlocal", "disentangled")
        assert options == {"whitening": "layer", "unary": True, "scale": False, "no_decay": ["query", "key"]}


class TestModels:
    def build(self, *overrides):
        with torch.device("meta"):
            return make_task(load_config(RECIPE, ["model.backbone.name=resnet18", *overrides])).network()

    def test_backbones_and_heads_take_the_options_of_their_classes(self):
        network = self.build(
            "model.backbone.options={ceil_mode: false}",
            "model.head.name=psp",
            "model.head.options={pyramid: [1, 4]}",
            "model.aux.options={width: 40}",
        )
        assert network.backbone.pool.ceil_mode is False
        assert network.head.pyramid == (1, 4)
        assert network.aux_head.reduce.conv.out_channels == 40

    def test_keys_that_are_not_for_a_backbone_must_be_as_they_are(self):
        assert self.build("model.backbone.name=hrnet_w18").backbone.channels == (256, 18, 18, 270)
        with pytest.raises(UserError, match=r"model\.backbone\.output_stride is not for hrnet_w18.*8"):
            self.build("model.backbone.name=hrnet_w18", "model.backbone.output_stride=16")
        with pytest.raises(UserError, match=r"model\.backbone\.stem is not for mobilenet_v2"):
            self.build("model.backbone.name=mobilenet_v2", "model.backbone.stem=plain")

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("model.backbone.options={ceilmode: false}", r"model\.backbone\.ceilmode; did you mean ceil_mode"),
            ("model.backbone.options={stem: plain}", r"set model\.backbone\.stem"),
            ("model.head.options={widht: 3}", r"model\.head\.widht; did you mean width"),
            ("model.head.options={dropout: 0}", r"set model\.head\.dropout"),
        ],
    )
    def test_wrong_options_are_named(self, override, message):
        with pytest.raises(UserError, match=message):
            self.build(override)

    @pytest.mark.parametrize("block", [name for name in BLOCKS if name != "disentangled"])
    def test_every_block_fits_the_nonlocal_head(self, block, write):
        file = write("mine.yaml", f"model: {{head: {{block: {{name: {block}}}}}}}")
        config = load_config(file, ["model.backbone.name=resnet18", "model.backbone.output_stride=32"])
        logits = make_task(config).network().eval()(torch.zeros(1, 3, 64, 96))
        assert logits["out"].shape == (1, 19, 64, 96)

    @pytest.mark.parametrize("head", [name for name in HEADS if name != "auxiliary"])
    def test_every_head_fits_a_backbone(self, head):
        network = self.build(f"model.head.name={head}", "model.backbone.output_stride=32")
        with torch.device("meta"):
            assert network.eval()(torch.zeros(1, 3, 64, 96))["out"].shape == (1, 19, 64, 96)
