"""What a recipe may change about training: optimiser, schedule, average, frozen parts, where it starts from."""

import re
from itertools import chain

import pytest
import torch

from lib.base.errors import UserError
from lib.engine.ema import WeightAverage
from lib.models import BACKBONES, build_segmentor
from lib.tasks import load_config, make_task
from lib.tasks.segmentation import SegmentationConfig
from lib.weights.loading import load_weights, start_from

EVERYTHING = (
    *("data.photometric=true", "data.rotation=10", "data.category_max_ratio=0.75", "data.include_val=true"),
    *("loss.name=focal", "loss.extra={lovasz: 0.5, dice: 0.25, ohem: 0.1}"),
    *("train.optimizer=adamw", "train.lr=0.001", "train.betas=[0.8, 0.9]", "train.clip_grad_norm=1.0"),
    *("train.schedule=cosine", "train.min_lr=0.0001", "train.warmup_iters=3", "train.warmup_start=0.1"),
    *("train.ema=0.9", "train.freeze_stages=1", "train.freeze_norm=true", "train.micro_batch=1"),
)


SMALL = ("model.backbone.name=mobilenet_v2", "val.mode=ss")
"""A network whose checkpoints are quickly written."""


def saved(run, name="latest"):
    return torch.load(run.checkpoint(name), weights_only=True)


def test_resuming_with_every_option_continues_exactly(train, command, runs):
    options = ("train.max_iters=4", "val.interval=2", "checkpoint.interval=2", "checkpoint.keep=2", "log.interval=3")
    assert train("tag", *SMALL, *EVERYTHING, *options).status == 0
    run = runs("tag")
    rows, whole = run.rows, saved(run)
    assert [row["iter"] for row in rows] == [2, 3, 4, 4]
    train_row = rows[1]
    parts = {"out": 1, "lovasz": 0.5, "dice": 0.25, "ohem": 0.1, "aux": 0.4}
    assert train_row["loss"] == pytest.approx(sum(weight * train_row[name] for name, weight in parts.items()), rel=1e-5)

    assert command("resume", "tag=tag", f"checkpoint={run.checkpoint('iter_2')}").status == 0
    kept = ("iter", "loss", *parts, "lr", "miou", "iou")
    assert [[row.get(key) for key in kept] for row in run.rows] == [[row.get(key) for key in kept] for row in rows]
    resumed = saved(run)
    assert resumed["iteration"] == 4
    for part in ("model", "ema"):
        assert all(torch.equal(resumed[part][name], tensor) for name, tensor in whole[part].items())
    for index, state in whole["optimizer"]["state"].items():
        assert all(torch.equal(resumed["optimizer"]["state"][index][name], value) for name, value in state.items())


# The moving average


def test_the_average_follows_its_formula():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    average = WeightAverage(network, decay=0.5)
    expected = {name: tensor.double() for name, tensor in network.state_dict().items()}
    for iteration in range(1, 13):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(2, 3, 4, 4))
        average.update(network, iteration)
        decay = min(0.5, (1 + iteration) / (10 + iteration))
        for name, tensor in network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    found = average.network.state_dict()
    assert found.pop("1.num_batches_tracked") == 12
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert not average.network.training and not any(p.requires_grad for p in average.network.parameters())


def test_the_average_is_what_is_scored_and_what_a_fine_tuning_starts_from(train, command, runs, data_root):
    assert train("coarse", *SMALL, "train.ema=0.99", "train.max_iters=2", "val.interval=2").status == 0
    coarse = runs("coarse")
    state = saved(coarse)
    assert not torch.equal(state["ema"]["head.classifier.weight"], state["model"]["head.classifier.weight"])
    model = make_task(load_config(coarse.path / "config.yaml", [])).network()
    assert load_weights(model, coarse.checkpoint("best")) == 2
    assert all(torch.equal(tensor, state["ema"][name]) for name, tensor in model.state_dict().items())
    assert command("val", "tag=coarse").status == 0
    assert f'"miou": {coarse.rows[-1]["miou"]}' in (coarse.path / "val" / "metrics.json").read_text()

    assert (
        train("fine", *SMALL, f"pretrained={coarse.checkpoint('best')}", "train.max_iters=1", "train.lr=0").status == 0
    )
    assert "entries of the whole network matched" in (runs("fine").path / "log.txt").read_text()
    fine = saved(runs("fine"))["model"]
    for name, _ in model.named_parameters():
        assert torch.equal(fine[name], state["ema"][name]), name


# Frozen parts


@pytest.mark.parametrize("name", ["resnet18", "hrnet_w18", "mobilenet_v2"])
def test_stages_are_the_backbones_layers_in_the_order_of_the_data(name):
    backbone = BACKBONES[name]()
    parts = [[id(p) for layer in stage for p in layer.parameters()] for stage in backbone.stages]
    assert len(parts) == 5 and all(parts)
    assert sorted(chain(*parts)) == sorted(map(id, backbone.parameters()))
    image = torch.randn(2, 3, 64, 64, requires_grad=True)
    outputs = backbone(image)
    for stage, output in enumerate(outputs[:3]):
        gradients = torch.autograd.grad(output.sum(), list(backbone.parameters()), retain_graph=True, allow_unused=True)
        reached = {id(p) for p, g in zip(backbone.parameters(), gradients, strict=True) if g is not None}
        assert reached <= set(chain(*parts[: stage + 2])), "an output needs no later stage"
        assert reached & set(parts[stage + 1])


def test_frozen_parts_have_no_gradients_and_stay_in_evaluation_mode():
    model = build_segmentor(
        num_classes=3, backbone={"name": "resnet18"}, head={"name": "fcn"}, aux=None, align_corners=True
    )
    model.freeze(stages=1, norm=True)
    for mode in (True, False, True):
        model.train(mode)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    stages = {name for name in dict(model.named_parameters()) if re.match(r"backbone\.(stem|layer1)\.", name)}
    norms = {name for name in dict(model.named_parameters()) if re.match(r"backbone.*\.(bn\d|downsample\.1)\.", name)}
    assert frozen == stages | norms and len(norms - stages) == 30
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers() if name.startswith("backbone.")}
    head = model.head.reduce.norm.running_mean.clone()
    model(torch.randn(2, 3, 64, 64))["out"].sum().backward()
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers() if name in statistics)
    assert not torch.equal(model.head.reduce.norm.running_mean, head)
    assert model.backbone.layer2[0].conv1.training and not model.backbone.layer1.training


def test_a_training_leaves_the_frozen_stages_as_they_were(train, runs):
    assert train("tag", "train.freeze_stages=2", "train.max_iters=2").status == 0
    before = make_task(load_config(runs("tag").path / "config.yaml", [])).network().state_dict()
    after = saved(runs("tag"))["model"]
    same = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    frozen = {name for name in before if name.startswith(("backbone.stem.", "backbone.layer1.", "backbone.layer2."))}
    assert frozen <= same
    assert not {"backbone.layer3.0.conv1.weight", "backbone.layer3.0.bn1.running_mean", "head.classifier.bias"} & same


# Steps


def test_gradients_are_scaled_down_to_the_largest_norm(train, runs):
    still = ("train.momentum=0", "train.weight_decay=0", "train.lr=0.5", "train.max_iters=1")
    assert train("tag", "train.clip_grad_norm=0.01", *still).status == 0
    model = make_task(load_config(runs("tag").path / "config.yaml", [])).network()
    after = saved(runs("tag"))["model"]
    steps = [(after[name] - parameter.detach()).double().norm() for name, parameter in model.named_parameters()]
    assert torch.stack(steps).norm().item() == pytest.approx(0.5 * 0.01, rel=1e-2)


def test_a_resumed_run_may_change_its_losses_but_not_its_optimiser(train, command, runs):
    assert train("tag", "train.max_iters=1", "log.interval=2").status == 0
    assert "train.optimizer=sgd" in command("resume", "tag=tag", "train.max_iters=2", "train.optimizer=adamw").error
    assert command("resume", "tag=tag", "train.max_iters=2", "loss.extra={dice: 1.0}").status == 0
    assert "dice" in runs("tag").rows[-1]


def test_validation_images_are_learnt_too_on_demand(data_root):
    config = SegmentationConfig()
    config.data.root = str(data_root)
    assert len(make_task(config).train_data()) == 6
    config.data.include_val = True
    assert len(make_task(config).train_data()) == 9


@pytest.mark.slow
def test_a_compiled_network_trains_like_the_plain_one_and_keeps_its_names(train, runs):
    # Compiled dropout draws other numbers.
    options = ("model.head.dropout=0", "model.aux.dropout=0", "train.max_iters=3", "val.interval=2")
    for tag, compiled in (("plain", "false"), ("compiled", "true")):
        assert train(tag, f"train.compile={compiled}", *options).status == 0
    plain, compiled = ([row["loss"] for row in runs(tag).rows if "loss" in row] for tag in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=1e-3) and compiled != plain
    assert saved(runs("plain"))["model"].keys() == saved(runs("compiled"))["model"].keys()


# Where a training starts from


def small(classes=5, **options):
    backbone = {"name": "resnet18", "output_stride": 32}
    return build_segmentor(
        **{"num_classes": classes, "backbone": backbone, "head": {"name": "fcn"}, "aux": {}, **options}
    )


def run_checkpoint(path, **more):
    state = {name: torch.rand_like(tensor.float()) for name, tensor in small().state_dict().items()}
    torch.save({"format": 1, "model": state, "iteration": 7} | more, path)
    return state


def test_a_runs_checkpoint_fills_the_whole_network(tmp_path):
    state = run_checkpoint(tmp_path / "best.pth")
    model = small()
    assert start_from(model, tmp_path / "best.pth") == f"best.pth: {len(state)} entries of the whole network matched"
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, state[name])


def test_classifiers_of_other_classes_stay_random_and_are_named(tmp_path):
    state = run_checkpoint(tmp_path / "best.pth")
    model = small(classes=9)
    before = model.head.classifier.weight.clone()
    note = start_from(model, tmp_path / "best.pth")
    classifiers = [f"{head}.classifier.{kind}" for head in ("head", "aux_head") for kind in ("weight", "bias")]
    assert note.endswith(f"left random {', '.join(classifiers)}")
    assert torch.equal(model.head.classifier.weight, before)
    assert torch.equal(model.head.reduce.conv.weight, state["head.reduce.conv.weight"])


@pytest.mark.parametrize("name", ["aux", "head", "backbone"])
def test_a_whole_network_fits_with_or_without_its_auxiliary_head_and_no_other(tmp_path, name):
    run_checkpoint(tmp_path / "best.pth")
    if name == "aux":
        start_from(small(aux=None), tmp_path / "best.pth")
        return
    other = {"head": {"head": {"name": "psp"}}, "backbone": {"backbone": {"name": "resnet34"}}}[name]
    model = small(**other)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=r"best\.pth holds another network than the configuration"):
        start_from(model, tmp_path / "best.pth")
    torch.testing.assert_close(dict(model.state_dict()), before)


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    run_checkpoint(tmp_path / "future.pth", format=99)
    with pytest.raises(UserError, match="format 99"):
        start_from(small(), tmp_path / "future.pth")


# Wrong values


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("loss.name=hinge", "ohem, cross_entropy, focal, dice, lovasz"),
        ("loss.extra={hinge: 1.0}", "loss.extra.hinge.*ohem, cross_entropy"),
        ("loss.extra={dice: -1.0}", r"loss.extra.dice=-1.0.*at least 0"),
        ("loss.focal_gamma=-1", "loss.focal_gamma.*at least 0"),
        ("train.optimizer=adam", "sgd, adamw"),
        ("train.betas=[0.9]", "train.betas.*two numbers"),
        ("train.betas=[0.9, 1.0]", "train.betas.*without 1"),
        ("train.schedule=exp", "poly, linear, cosine, step, constant"),
        ("train.schedule=step", "train.steps"),
        ("train.steps=[20, 10]", r"train.steps=\[20, 10\].*ascending"),
        ("train.steps=[0, 10]", "train.steps.*at least 1"),
        ("train.step_factor=-0.1", "train.step_factor.*at least 0"),
        ("train.hold_iters=60000", "train.hold_iters=60000.*below train.max_iters=60000"),
        ("train.min_lr=0.1", "train.min_lr=0.1.*at most train.lr=0.01"),
        ("train.warmup_iters=-1", "train.warmup_iters.*at least 0"),
        ("train.warmup_start=1.5", "train.warmup_start=1.5.*0 to 1"),
        ("train.clip_grad_norm=-1", "train.clip_grad_norm.*at least 0"),
        ("train.ema=1.0", "train.ema=1.0.*without 1"),
        ("train.ema=-0.1", "train.ema=-0.1"),
        ("train.freeze_stages=5", "train.freeze_stages=5.*-1 to 4"),
        ("train.freeze_stages=-2", "train.freeze_stages=-2.*at least -1"),
        ("data.category_max_ratio=1.5", "data.category_max_ratio=1.5.*at most 1"),
        ("data.category_max_ratio=0", "data.category_max_ratio=0"),
        ("data.rotation=-5", "data.rotation.*at least 0"),
        ("data.long_side=100", "data.long_side=100.*data.short_side"),
    ],
)
def test_a_value_that_cannot_be_is_one_line_before_anything_is_touched(command, runs, override, words):
    error = command("train", "tag=tag", "data.root=/no/such/folder", override).error
    assert re.search(words, error), error
    assert not runs("tag").path.exists()


def test_compiling_without_a_compiler_is_refused_before_anything_is_written(train, runs, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no compiler no-such-compiler" in train("refused", "train.compile=true").error
    assert not runs("refused").path.exists()
