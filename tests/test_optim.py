"""The optimiser's groups, its steps and its schedule follow the recipe's formulas."""

import pytest
import torch

from lib.models import build_segmentor
from lib.optim import build_optimizer, poly_schedule


@pytest.fixture(scope="module")
def segmentor():
    return build_segmentor(
        num_classes=3,
        backbone={"name": "resnet18", "stem": "deep", "output_stride": 32},
        head={"name": "nonlocal", "block": {"name": "disentangled", "no_decay": ["query", "key"]}},
        aux={},
    )


def settings(optimizer, segmentor):
    """(learning rate, weight decay) of every parameter by name; each is in one group."""
    names = {id(parameter): name for name, parameter in segmentor.named_parameters()}
    found = [
        (names[id(parameter)], (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_all_but_query_and_key_decay(segmentor):
    optimizer = build_optimizer(segmentor, lr=0.1, momentum=0.9, weight_decay=5e-4)
    found = settings(optimizer, segmentor)
    assert found.keys() == {name for name, _ in segmentor.named_parameters()}
    projections = [f"head.block.{part}.{kind}" for part in ("query", "key") for kind in ("weight", "bias")]
    assert sorted(name for name, (_, decay) in found.items() if decay == 0) == sorted(projections)
    assert {decay for name, (_, decay) in found.items() if name not in projections} == {5e-4}


def test_everything_but_the_backbone_learns_faster_by_its_factor(segmentor):
    optimizer = build_optimizer(segmentor, lr=0.1, momentum=0.9, weight_decay=5e-4, head_lr_factor=10)
    for name, (lr, _) in settings(optimizer, segmentor).items():
        assert lr == pytest.approx(0.1 if name.startswith("backbone.") else 1.0), name


def test_steps_follow_momentum_decay_and_poly_schedule(segmentor):
    rng = torch.Generator().manual_seed(0)
    lr, momentum, decay, factor, total, power = 0.05, 0.9, 0.1, 10, 4, 0.9
    optimizer = build_optimizer(segmentor, lr=lr, momentum=momentum, weight_decay=decay, head_lr_factor=factor)
    schedule = poly_schedule(optimizer, total, power)
    watched = {
        "backbone.stem.0.conv.weight": (1, decay),
        "head.block.query.weight": (factor, 0),
        "head.block.value.weight": (factor, decay),
    }
    parameters = dict(segmentor.named_parameters())
    reference = {name: [parameters[name].detach().double(), 0] for name in watched}
    for iteration in range(total):
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=rng)
        for name, (lr_factor, weight_decay) in watched.items():
            weight, velocity = reference[name]
            velocity = momentum * velocity + parameters[name].grad.double() + weight_decay * weight
            rate = lr * lr_factor * (1 - iteration / total) ** power
            reference[name] = [weight - rate * velocity, velocity]
        optimizer.step()
        schedule.step()
    for name, (weight, _) in reference.items():
        torch.testing.assert_close(parameters[name].detach().double(), weight, rtol=1e-5, atol=1e-5)


def test_the_schedule_ends_at_zero_and_can_start_anywhere(segmentor):
    def rates(schedule, count):
        for _ in range(count):
            yield schedule.get_last_lr()
            schedule.optimizer.step()
            schedule.step()

    whole = build_optimizer(segmentor, lr=0.01, momentum=0, weight_decay=0, head_lr_factor=10)
    schedule = poly_schedule(whole, 10, 0.9)
    expected = [[0.01 * (1 - i / 10) ** 0.9, 0.1 * (1 - i / 10) ** 0.9] for i in range(10)]
    found = [sorted(set(rate)) for rate in rates(schedule, 10)]
    assert found == [pytest.approx(pair) for pair in expected]
    assert set(schedule.get_last_lr()) == {0.0}

    other = build_optimizer(segmentor, lr=0.01, momentum=0, weight_decay=0, head_lr_factor=10)
    poly_schedule(other, 10, 0.9)
    assert [sorted(set(rate)) for rate in rates(poly_schedule(other, 10, 0.9, iteration=6), 4)] == found[6:]
