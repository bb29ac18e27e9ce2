"""Every recipe has the published values: its settings those of the tables of facts, its network the published one."""

import csv
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from published_facts import DATASETS, SPEC, facts, numbers, of_recipe, published

from datasets.seg.classes import load_table
from lib.base.peers import ALONE
from lib.models import build_segmentor
from lib.tasks import load_config, make_task
from lib.weights import networks
from lib.weights.checkpoints import import_network
from lib.weights.spectral_blocks import spectral_options

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "seg"
SCRIPTS = ROOT / "scripts" / "seg"
needs_facts = pytest.mark.skipif(not SPEC.is_dir(), reason="the published facts are not here")

EVERYWHERE, ON_BOTH = ["dnl", "nl"], ["nl_in", "gc", "fcn", "psp", "deeplab_v3", "ann"]
SYSTEMS = {name: EVERYWHERE for name in DATASETS} | {
    "cityscapes": [*EVERYWHERE, *ON_BOTH, "dnl_in", "nl_ln", "unary", "dense_aspp"],
    "ade20k": [*EVERYWHERE, *ON_BOTH],
    "pascal_context_60": [*EVERYWHERE, "nl_in", "psp"],
    "pascal_voc_20": [*EVERYWHERE, "nl_in"],
}
RECIPES = [f"{dataset}/{system}_r101" for dataset, systems in SYSTEMS.items() for system in systems]
ON_OTHER_BACKBONES = ["cityscapes/dnl_hrnet_w48", "cityscapes/dnl_mobilenet_v2"]
MMSEG = sorted(f"{file.parent.name}/{file.stem}" for file in CONFIGS.glob("*/mmseg_*.yaml"))

# Published lists of parameters and the recipe of that network
LISTS = {
    "torchcv_nonlocalnowd_deepbase_resnet101_dilated8": ["dnl_r101", "dnl_in_r101"],
    "torchcv_nonlocalbn_deepbase_resnet101_dilated8": ["nl_r101"],
    "torchcv_unary_deepbase_resnet101_dilated8": ["unary_r101"],
    "torchcv_gcnet_deepbase_resnet101_dilated8": ["gc_r101"],
    "torchcv_basenet_deepbase_resnet101_dilated8": ["fcn_r101"],
    "torchcv_pspnet_deepbase_resnet101_dilated8": ["psp_r101"],
    "torchcv_deeplabv3_deepbase_resnet101_dilated8": ["deeplab_v3_r101"],
    "torchcv_annn_deepbase_resnet101_dilated8": ["ann_r101"],
    "torchcv_nonlocalbn_single_hrnet": ["dnl_hrnet_w48"],
    "torchcv_nonlocalnowd_mobilenetv2_dilated8": ["dnl_mobilenet_v2"],
    "mmseg_dnl_r50": ["mmseg_dnl_r50_512x1024_40k", "mmseg_dnl_r50_512x1024_80k"],
    "mmseg_dnl_r50_align": ["mmseg_dnl_r50_769x769_40k", "mmseg_dnl_r50_769x769_80k"],
}

# What torchcv calls the networks whose head has no block with options of its own
TORCHCV_FAMILIES = {"fcn": "basenet", "psp": "pspnet", "deeplab_v3": "deeplabv3", "ann": "annn", "gc": "gcnet"}


def network_of(config):
    return make_task(config).network()


@cache
def load(recipe, *overrides):
    return load_config(CONFIGS / f"{recipe}.yaml", list(overrides))


def meta(build, *arguments, **options):
    """What ``build`` makes, without numbers."""
    with torch.device("meta"):
        return build(*arguments, **options)


def structure(module):
    """All that modules were told: by name, their class and their attributes that are plain values."""
    plain = (bool, int, float, str, tuple, type(None))
    return {
        name: (type(part), {key: value for key, value in vars(part).items() if isinstance(value, plain)})
        for name, part in module.named_modules()
    }


def undecayed(network):
    """The names of the parameters that are trained without weight decay."""
    chosen = {
        id(parameter)
        for module in network.modules()
        if hasattr(module, "no_decay_parameters")
        for parameter in module.no_decay_parameters()
    }
    return {name for name, parameter in network.named_parameters() if id(parameter) in chosen}


QUERY_AND_KEY = {f"head.block.{projection}.{leaf}" for projection in ("query", "key") for leaf in ("weight", "bias")}


@needs_facts
class TestTorchcv:
    @pytest.mark.parametrize("recipe", [*RECIPES, *ON_OTHER_BACKBONES])
    def test_the_settings_are_those_of_the_dataset(self, recipe):
        config = load(recipe)
        data, train, loss = config.data, config.train, config.loss
        column, classes = DATASETS[data.dataset]
        # where its own script is known to differ from the dataset's table, it counts
        own = of_recipe(recipe)
        assert data.dataset == recipe.split("/")[0]
        assert len(load_table(data.dataset)) == int(re.search(classes, published("classes", column))[1])

        assert data.crop_size == own.get("data.crop_size", numbers(published("crop", column)))
        augmentation = published("augmentation, in order", column)
        steps = r"resize x\[(.+?)\](?: with|,) aspect \[(.+?)\].*brightness (?:shift )?\+-(\d+)"
        scale, aspect, brightness = re.search(steps, augmentation).groups()
        assert (data.scale, data.aspect, data.brightness) == (numbers(scale), numbers(aspect), int(brightness))
        shorter = re.search(r"shorter side to (\d+)", augmentation)
        assert data.short_side == own.get("data.short_side", int(shorter[1]) if shorter else 0)
        assert data.resize == ("twice" if augmentation.startswith("flip; shorter side") else "once")
        assert "flip" in augmentation and data.flip == 0.5

        rate = re.search(r"59 without \(.*base lr ([\d.]+)\)", published("classes", column))
        base = numbers(published("base lr / weight decay", column))
        assert train.lr == own.get("train.lr", float(rate[1]) if data.dataset == "pascal_context_59" else base[0])
        assert train.weight_decay == base[1]
        assert train.batch_size == own.get("train.batch_size", numbers(published("batch", column))[0])
        assert train.max_iters == own.get("train.max_iters", *numbers(published("iterations", column)))
        weights = numbers(published("class weights", column))
        assert loss.class_weights == bool(weights)
        assert not weights or make_task(config).loss(ALONE).weight.tolist() == pytest.approx(weights)

    @pytest.mark.parametrize("recipe", [*RECIPES, *ON_OTHER_BACKBONES])
    def test_the_rest_is_common_to_all(self, recipe):
        config = load(recipe)
        data, train, loss = config.data, config.train, config.loss
        common = facts()[1].split("Common:")[1].split("| |")[0]
        assert f"momentum {train.momentum}, no Nesterov" in common and train.optimizer == "sgd"
        assert f"** {train.power}` stepped" in common and (train.schedule, train.min_lr) == ("poly", 0)
        assert "no warm-up" in common and train.warmup_iters == 0
        assert f"BGR order, minus ({', '.join(map(str, data.mean))}), std 1" in common
        assert (data.color_order, data.std) == ("bgr", [1, 1, 1])
        assert f"loss = OHEM cross entropy (threshold {loss.ohem_threshold}, at least 100 000 pixels" in common
        name = of_recipe(recipe).get("loss.name", "ohem")
        assert (loss.name, loss.ohem_min_kept, loss.extra, loss.mean) == (name, 100_000, {}, "valid")
        assert f"+ {loss.aux_weight} x cross entropy" in common
        assert not data.photometric and data.rotation == 0 and data.category_max_ratio == 1

    @pytest.mark.parametrize("recipe", RECIPES)
    def test_the_backbone_is_the_published_one(self, recipe):
        model = load(recipe).model
        words = published("backbone", DATASETS[recipe.split("/")[0]][0])
        assert words == "3x3 (deep-stem) ResNet-101, output stride 8, multi-grid 1 1 1"
        backbone = model.backbone
        assert (backbone.stem, backbone.name, backbone.output_stride) == ("deep", "resnet101", 8)
        assert backbone.multi_grid == [1, 1, 1] and backbone.options == {} and model.align_corners
        assert model.aux.enabled == of_recipe(recipe).get("model.aux.enabled", True)

    @pytest.mark.parametrize("system", ["dnl", "dnl_in", "nl", "nl_in", "nl_ln", "unary"])
    def test_a_named_recipe_has_the_block_of_its_row(self, system):
        row = next(row for row in facts()[0][1] if row["recipe"] == system)
        assert row["output conv / BN"] in ("no / no", "-")
        whitening = row["whitening"].split()[0]
        case = {
            "family": {"nonlocal_nowd": "nonlocalnowd", "nonlocal_bn": "nonlocalbn"}.get(row["block"], row["block"]),
            "backbone": "deepbase_resnet101_dilated8",
            "num_classes": 19,
            "nonlocal_": {
                "whiten_type": [] if whitening in ("none", "-") else [whitening],
                "temp": float(row["temperature"]) if row["temperature"] != "-" else 1.0,
                "with_gc": row["unary"] == "yes",
                "with_nl": True,
                "nowd": {"off": ["nl"], "on": [], "-": []}[row["scale 1/sqrt(d)"]],
            },
        }
        case["nonlocal_"] |= {"use_out": False, "out_bn": False}
        network = meta(network_of, load(f"cityscapes/{system}_r101"))
        assert structure(network) == structure(meta(build_segmentor, **networks.torchcv_network_options(case)))
        assert undecayed(network) == (QUERY_AND_KEY if row["no weight decay"] == "query, key" else set())

    @pytest.mark.parametrize(("system", "family"), TORCHCV_FAMILIES.items())
    def test_the_other_systems_are_torchcvs_down_to_the_dropout(self, system, family):
        case = {"family": family, "backbone": "deepbase_resnet101_dilated8", "num_classes": 19, "nonlocal_": None}
        ours = structure(meta(network_of, load(f"cityscapes/{system}_r101")))
        assert ours == structure(meta(build_segmentor, **networks.torchcv_network_options(case)))

    @pytest.mark.parametrize(
        ("recipe", "family", "backbone"),
        [
            ("dnl_mobilenet_v2", "nonlocalnowd", "mobilenetv2_dilated8"),
            ("dnl_hrnet_w48", "nonlocalbn_single", "hrnet"),
        ],
    )
    def test_dnl_on_other_backbones_is_the_network_of_the_recorded_fixture(self, recipe, family, backbone):
        section = {"downsample": False, "with_gc": True, "use_out": False, "out_bn": False}
        if backbone == "hrnet":
            section |= {"whiten_type": ["channel"], "temp": 0.05}
        else:
            section |= {"whiten_type": ["ln_nostd"], "with_nl": True, "nowd": ["nl"]}
        case = {"family": family, "backbone": backbone, "num_classes": 19, "nonlocal_": section}
        ours = structure(meta(network_of, load(f"cityscapes/{recipe}")))
        assert ours == structure(meta(build_segmentor, **networks.torchcv_network_options(case)))

    @pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if not recipe.startswith("cityscapes")])
    def test_a_system_has_the_same_network_on_every_dataset_but_for_its_scripts_block(self, recipe):
        # no script trains these two: they have the block of the same dataset's other table of classes
        like = {"pascal_context_60/nl_r101": "pascal_context_59/nl_r101", "pascal_voc/nl_r101": "pascal_voc_20/nl_r101"}
        own = of_recipe(like.get(recipe, recipe))
        words = [f"{key}={value}" for key, value in own.items() if key.startswith("model.head.block.")]
        same = load_config(CONFIGS / "cityscapes" / f"{recipe.split('/')[1]}.yaml", words)
        assert load(recipe).model == same.model


@needs_facts
@pytest.mark.parametrize(("name", "recipe"), [(name, recipe) for name in LISTS for recipe in LISTS[name]])
def test_a_published_checkpoint_fills_the_recipes_network_completely(name, recipe):
    lines = (SPEC / "state_dict_keys" / f"{name}.txt").read_text().splitlines()
    entries = dict(line.split("\t") for line in lines)
    content = {key: torch.empty(json.loads(shape), device="meta") for key, shape in entries.items()}
    network = meta(network_of, load(f"cityscapes/{recipe}"))
    _, report = import_network(network, content, name)
    counters = {key for key in report.missing if key.endswith("num_batches_tracked")}
    assert set(report.missing) == counters and report.left_out == []
    # some lists leave the counters out
    assert not counters or not any(key.endswith("num_batches_tracked") for key in content)


@needs_facts
class TestMmsegmentation:
    @staticmethod
    def row_of(recipe):
        dataset, name = recipe.split("/")
        _, _, backbone, crop, iterations = name.split("_")
        cells = {"dataset": dataset, "backbone": backbone.replace("r", "R-"), "crop": crop, "iterations": iterations}
        return next(row for row in facts()[0][2] if cells.items() <= {**row, "dataset": row["dataset"].lower()}.items())

    def test_every_published_row_has_a_recipe(self):
        rows = [tuple(self.row_of(recipe).values()) for recipe in MMSEG]
        assert sorted(rows) == sorted(tuple(row.values()) for row in facts()[0][2]) and len(rows) == 12

    @pytest.mark.parametrize("recipe", MMSEG)
    def test_the_settings_are_those_of_its_row(self, recipe):
        config, row = load(recipe), self.row_of(recipe)
        data, train, loss, val = config.data, config.train, config.loss, config.val
        text = facts()[1].split("## The mmsegmentation DNLNet recipes")[1].split("| dataset |")[0]
        height, width = map(int, row["crop"].split("x"))
        assert data.crop_size == [width, height]
        assert train.max_iters == 1000 * int(row["iterations"].removesuffix("k"))
        batches = re.search(r"batch (\d+) \(Cityscapes: .*?\) or (\d+) \(ADE20K", text).groups()
        assert train.batch_size == int(batches[data.dataset == "ade20k"])
        rates = r"SGD lr ([\d.]+), momentum ([\d.]+), weight decay (\S+), poly power ([\d.]+) down to (\S+);"
        values = [train.lr, train.momentum, train.weight_decay, train.power, train.min_lr]
        assert values == [float(value) for value in re.search(rates, text).groups()]
        assert f"RGB, mean ({', '.join(map(str, data.mean))}), std ({', '.join(map(str, data.std))})" in text
        assert f"resize x[{data.scale[0]}, {data.scale[1]}] keeping aspect" in text and data.aspect == [1, 1]
        assert f"category maximum ratio {data.category_max_ratio}, flip {data.flip}, photometric" in text
        assert data.photometric and data.brightness == 0 and data.color_order == "rgb" and data.resize == "mmseg"
        assert f"cross entropy + {loss.aux_weight} x auxiliary cross entropy" in text and loss.name == "cross_entropy"
        assert loss.mean == "all" and not loss.class_weights  # divided by ignored pixels too: spec/protocols.md

        if row["crop"] == "769x769":
            assert "769 x 769 models are tested with sliding windows of 769 and stride 513 and use" in text
            assert (val.mode, val.window, val.stride, config.model.align_corners) == ("sscrop", [769, 769], 513, True)
        else:
            assert "ADE20K models are tested whole without it" in text
            assert (val.mode, config.model.align_corners) == ("ss", False)
        # its base scales; that of 512 x 1024 is the size of all images of Cityscapes
        longest = {"512x512": (512, 2048), "512x1024": (0, 0), "769x769": (1025, 2049)}[row["crop"]]
        assert (data.short_side, data.long_side) == longest
        assert (val.short_side, val.long_side) in (longest, (0, 0))
        assert (val.combine, val.flip, val.interpolation) == ("softmax", True, "bilinear")

    @pytest.mark.parametrize("recipe", MMSEG)
    def test_the_network_is_the_published_one(self, recipe):
        config, row = load(recipe), self.row_of(recipe)
        case = {
            "family": "mmseg/DNLHead",
            "depth": int(row["backbone"].removeprefix("R-")),
            "align_corners": row["crop"] == "769x769",
            "num_classes": len(load_table(config.data.dataset)),
            "head_args": {"reduction": 2, "use_scale": True, "mode": "embedded_gaussian", "temperature": 0.05},
        }
        network = meta(network_of, config)
        expected = structure(meta(build_segmentor, **networks.mmseg_network_options(case)))
        ours = structure(network)
        for parts in (ours, expected):
            del parts["head.block"][1]["no_decay"]
        assert ours == expected
        # the authors of mmsegmentation set it for these two alone
        assert undecayed(network) == (QUERY_AND_KEY if recipe.endswith("769x769_80k") else set())

    @pytest.mark.parametrize("recipe", MMSEG)
    def test_its_published_results_are_in_the_table_of_results(self, recipe):
        row = self.row_of(recipe)
        expected = row["mIoU"] + (f", ms {row['mIoU ms+flip']}" if row["mIoU ms+flip"] else "")
        assert results()[recipe]["published"] == expected


@needs_facts
def test_snl_is_its_authors_head_with_mmsegmentations_settings():
    config, text = load("cityscapes/snl_r50"), facts()[1]
    words = r"ResNet-50-v1c on Cityscapes at (\d+) x (\d+), (\d+)k iterations"
    height, width, thousands = map(int, re.search(words, text).groups())
    assert config.data.crop_size == [width, height] and config.train.max_iters == 1000 * thousands
    other = load("cityscapes/mmseg_dnl_r50_512x1024_40k")
    for part in ("data", "loss", "val"):
        assert getattr(config, part) == getattr(other, part)
    assert replace(config.train, batch_size=8) == other.train and config.train.batch_size == 4
    assert config.model.backbone == other.model.backbone and config.model.backbone.name == "resnet50"
    assert config.model.backbone.stem == "v1c"
    stage = {"family": "snl/seg_stage", "inplanes": 512, "planes": 256, "stage_num": 1, "relu": True}
    options = spectral_options(stage)
    del options["channels"]
    case = {"family": "mmseg/FCNHead", "depth": 50, "align_corners": False, "num_classes": 19, "head_args": {}}
    spec = networks.mmseg_network_options(case)
    spec["head"] = {"name": "nonlocal", "block": {"name": "spectral", **options}}
    assert structure(meta(network_of, config)) == structure(meta(build_segmentor, **spec))


def results():
    with (ROOT / "configs" / "results.csv").open() as file:
        return {row["recipe"]: row for row in csv.DictReader(file)}


class TestCatalogue:
    def test_every_recipe_has_one_script_and_every_script_its_recipe(self):
        started = {}
        for script in SCRIPTS.glob("*/run_*.sh"):
            found = re.search(r"dispatch\.sh\" seg/(\S+)\.yaml", script.read_text())
            if found:
                assert found[1] not in started and found[1].split("/")[0] == script.parent.name
                started[found[1]] = script.name
        # the demo has a script of its own, which draws its data first
        recipes = {f"{file.parent.name}/{file.stem}" for file in CONFIGS.glob("*/*.yaml")} - {"cityscapes/demo"}
        assert started.keys() == recipes
        for recipe, script in started.items():
            network = recipe.split("/")[1]
            assert script in (f"run_{network}.sh", f"run_{network.rpartition('_')[0]}.sh")

    def test_every_dataset_has_a_script_for_dnl(self):
        folders = [folder for folder in SCRIPTS.iterdir() if folder.is_dir()]
        assert {folder.name for folder in folders} == {*DATASETS, "camvid", "custom"}
        assert all((folder / "run_dnl.sh").is_file() for folder in folders)

    def test_all_promised_recipes_exist(self):
        assert [name for name in [*RECIPES, *ON_OTHER_BACKBONES] if not (CONFIGS / f"{name}.yaml").is_file()] == []

    @needs_facts
    @pytest.mark.parametrize(
        ("recipe", "words"),
        [
            ("ade20k/dnl_r101", r"([\d.]+) mIoU on ADE20K val \(ResNet-101\)"),
            ("cityscapes/dnl_hrnet_w48", r"([\d.]+) on Cityscapes test \(HRNetV2-W48, with coarse data\)"),
            ("cityscapes/ann_r101", r"([\d.]+) mIoU on Cityscapes test"),
        ],
    )
    def test_the_papers_results_are_in_the_table_of_results(self, recipe, words):
        assert numbers(results()[recipe]["published"]) == [float(re.search(words, facts()[1])[1])]

    def test_results_are_of_recipes_that_exist(self):
        assert [name for name in results() if not (CONFIGS / f"{name}.yaml").is_file()] == []

    def test_the_readme_lists_every_recipe_with_its_script_and_network(self):
        text = (ROOT / "configs" / "README.md").read_text()
        recipes = [f"{file.parent.name}/{file.name}" for file in CONFIGS.glob("*/*.yaml")]
        assert [recipe for recipe in recipes if f"](seg/{recipe}) | " not in text] == []
        assert "[dnl_r101](seg/cityscapes/dnl_r101.yaml) | run_dnl.sh | nonlocal: disentangled | resnet101" in text
