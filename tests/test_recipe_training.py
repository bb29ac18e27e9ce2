"""Every recipe trains, saves and loads; its network means the same to ``torch.compile``."""

import io
import json
import shutil
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets.seg.classes import load_table
from lib.base.peers import ALONE
from lib.engine.optimizer import build_optimizer
from lib.tasks import load_config, make_task

CONFIGS = Path(__file__).parents[1] / "configs" / "seg"
RECIPES = sorted(f"{file.parent.name}/{file.stem}" for file in CONFIGS.glob("*/*.yaml"))
SMALL = {"resnet50": "resnet18", "resnet101": "resnet18", "hrnet_w48": "hrnet_w18"}


@cache
def load(recipe, *overrides):
    return load_config(CONFIGS / f"{recipe}.yaml", ["loss.ohem_min_kept=1000", *overrides])


def shrink(recipe):
    """The override that gives a recipe the smallest backbone of its family."""
    name = load(recipe).model.backbone.name
    return f"model.backbone.name={SMALL.get(name, name)}"


def distinct(recipes, *, small):
    """One recipe for each network that they have, whatever the dataset and the treatment of corners and decay."""
    found = {}
    for recipe in recipes:
        model = asdict(load(recipe).model)
        del model["align_corners"]
        if small:
            model["backbone"]["name"] = SMALL.get(model["backbone"]["name"], model["backbone"]["name"])
        if model["head"]["name"] != "nonlocal":
            del model["head"]["block"]
        else:
            model["head"]["block"]["options"].pop("no_decay", None)
        found.setdefault(json.dumps(model, sort_keys=True), recipe)
    return list(found.values())


def train_two_steps(config):
    """A network after two steps on noise, and both losses."""
    network, table = make_task(config).network().train(), load_table(config.data.dataset)
    loss_of = make_task(config).loss(ALONE)
    optimizer = build_optimizer(config.train, network)
    image, label = torch.randn(2, 3, 65, 65), torch.randint(len(table), (2, 65, 65))
    losses = []
    for _ in range(2):
        loss = loss_of(network(image), label)["loss"]
        optimizer.zero_grad()
        loss.backward()
        assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
        optimizer.step()
        losses.append(loss.item())
    return network, losses


def assert_it_trains_saves_and_loads(config):
    before = {name: tensor.clone() for name, tensor in make_task(config).network().state_dict().items()}
    network, losses = train_two_steps(config)
    assert all(np.isfinite(losses)) and losses[0] != losses[1]
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    again = make_task(replace(config, seed=config.seed + 1)).network()
    again.load_state_dict(torch.load(file, weights_only=True))
    image = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        outputs = [part.eval()(image, with_aux=True) for part in (network, again)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    assert not torch.equal(before["head.classifier.weight"], network.head.classifier.weight)


@pytest.mark.parametrize("recipe", distinct(RECIPES, small=True))
def test_every_network_trains_saves_and_loads(recipe):
    assert_it_trains_saves_and_loads(load(recipe, shrink(recipe)))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", distinct(RECIPES, small=False))
def test_every_network_trains_saves_and_loads_in_its_full_size(recipe):
    assert_it_trains_saves_and_loads(load(recipe))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """DATA_DIR of noise in a dataset's own label ids: prepared(name)."""
    made = {}

    def prepare(dataset):
        if dataset not in made:
            made[dataset] = root = tmp_path_factory.mktemp(dataset)
            # one's own data brings its classes along
            table = load_table("camvid" if dataset == "custom" else dataset)
            (root / "classes.csv").write_text(table.text)
            rng, ids = np.random.default_rng(0), table.id_of
            for split, count in (("train", 4), ("val", 2)):
                for kind in ("image", "label"):
                    (root / split / kind).mkdir(parents=True)
                for index in range(count):
                    label = rng.choice(ids, (6, 8)).astype(np.uint8).repeat(12, 0).repeat(12, 1)
                    image = rng.integers(256, size=(72, 96, 3), dtype=np.uint8)
                    assert cv2.imwrite(str(root / split / "label" / f"{index}.png"), label)
                    assert cv2.imwrite(str(root / split / "image" / f"{index}.jpg"), image)
        return made[dataset]

    return prepare


@pytest.fixture
def through_the_command(command, prepared, tmp_path, monkeypatch):
    """Train two iterations of a recipe by ``main.py``, with a validation; then score its checkpoint again."""
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))

    def run(recipe):
        dataset, name = recipe.split("/")
        words = [
            *("tag=two", "device=cpu", "seed=1", "data.workers=0", f"data.root={prepared(dataset)}", shrink(recipe)),
            *("data.crop_size=[65,65]", "data.short_side=72", "val.short_side=72", "val.pictures=0", "log.interval=1"),
            *("train.max_iters=2", "train.batch_size=2", "train.amp=false", "loss.ohem_min_kept=1000"),
            *("val.interval=2", "val.window=[65,65]", "val.stride=0.667", "val.at_start=false"),
        ]
        trained = command("train", *words, config=CONFIGS / f"{recipe}.yaml")
        assert trained.status == 0, trained.stderr
        folder = tmp_path / "runs" / "seg" / load(recipe).data.dataset / name / "two"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["iter"] for row in rows] == [1, 2, 2]
        assert all(np.isfinite(row["loss"]) for row in rows[:2])
        scored = command("val", *words, config=CONFIGS / f"{recipe}.yaml")
        assert scored.status == 0, scored.stderr
        assert json.loads((folder / "val" / "metrics.json").read_text())["miou"] == pytest.approx(rows[2]["miou"])

    yield run
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


@pytest.mark.parametrize("recipe", ["ade20k/dnl_r101", "cityscapes/mmseg_dnl_r50_769x769_80k", "pascal_voc/nl_r101"])
def test_recipes_of_every_kind_train_and_validate_through_the_command(through_the_command, recipe):
    through_the_command(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_and_validates_through_the_command(through_the_command, recipe):
    through_the_command(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["dnl_r101", "nl_r101", "ann_r101", "snl_r50"])
def test_a_compiled_network_has_the_same_loss_and_gradients(recipe):
    config = load(f"cityscapes/{recipe}", "model.backbone.name=resnet18", "model.head.dropout=0", "model.aux.dropout=0")
    loss_of = make_task(config).loss(ALONE)
    torch.manual_seed(0)
    image, label = torch.randn(2, 3, 65, 65, dtype=torch.float64), torch.randint(19, (2, 65, 65))
    figures = []
    for compiled in (False, True):
        network = make_task(config).network().double().train()
        for parameter in network.parameters():
            if not parameter.any():
                # a gain or an output that starts at 0 would hide what is before it
                torch.nn.init.normal_(parameter, std=0.1)
        # one graph: a break would raise
        outputs = (torch.compile(network, fullgraph=True) if compiled else network)(image)
        loss = loss_of(outputs, label)["loss"]
        loss.backward()
        figures.append((loss.detach(), [parameter.grad for parameter in network.parameters()]))
    torch.testing.assert_close(figures[1], figures[0], rtol=1e-7, atol=1e-10)
