"""The optimiser's groups, its steps and its schedule follow the recipe's formulas."""

import math

import pytest
import torch

from lib.models import build_segmentor
from lib.optim import build_optimizer, build_schedule


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
    schedule = build_schedule(optimizer, "poly", max_iters=total, power=power)
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


def test_adamw_follows_its_papers_formula(segmentor):
    rng = torch.Generator().manual_seed(0)
    lr, (first, second), decay, factor = 0.05, (0.8, 0.95), 0.1, 10
    optimizer = build_optimizer(
        segmentor, "adamw", lr=lr, betas=[first, second], weight_decay=decay, head_lr_factor=factor
    )
    watched = {
        "backbone.stem.0.conv.weight": (1, decay),
        "head.block.query.weight": (factor, 0),
        "head.block.value.weight": (factor, decay),
    }
    parameters = dict(segmentor.named_parameters())
    reference = {name: [parameters[name].detach().double(), 0, 0] for name in watched}
    for step in range(1, 4):
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=rng)
        for name, (lr_factor, weight_decay) in watched.items():
            weight, mean, square = reference[name]
            gradient, rate = parameters[name].grad.double(), lr * lr_factor
            mean = first * mean + (1 - first) * gradient
            square = second * square + (1 - second) * gradient**2
            update = mean / (1 - first**step) / ((square / (1 - second**step)).sqrt() + 1e-8)
            reference[name] = [weight - rate * weight_decay * weight - rate * update, mean, square]
        optimizer.step()
    for name, (weight, *_) in reference.items():
        torch.testing.assert_close(parameters[name].detach().double(), weight, rtol=1e-5, atol=1e-5)


def rates(schedule, count):
    """Learning rates of backbone and head at ``count`` iterations."""
    for _ in range(count):
        yield tuple(sorted(set(schedule.get_last_lr())))
        schedule.optimizer.step()
        schedule.step()


def sgd(segmentor):
    return build_optimizer(segmentor, lr=0.01, momentum=0, weight_decay=0, head_lr_factor=10)


def poly(base, i):
    return (base - 0.001) * (1 - i / 10) ** 0.9 + 0.001


SCHEDULES = {
    "poly": ({"power": 0.9}, lambda base, i: base * (1 - i / 10) ** 0.9),
    "poly with a floor": ({"name": "poly", "power": 0.9, "min_lr": 0.001}, poly),
    "linear": ({"min_lr": 0.001}, lambda base, i: base + (0.001 - base) * i / 10),
    "cosine": ({"min_lr": 0.001}, lambda base, i: 0.001 + (base - 0.001) * (1 + math.cos(math.pi * i / 10)) / 2),
    "range": ({"power": 2.0}, lambda base, i: base * (1 - i / 10) ** (2 * i / 10)),
    "held": ({"name": "linear", "hold_iters": 4}, lambda base, i: base * max(0, 1 - max(0, i - 4) / 6)),
    "step": ({"steps": [3, 7], "step_factor": 0.2}, lambda base, i: base * [1, 0.2, 0.04][(i >= 3) + (i >= 7)]),
    "constant": ({}, lambda base, i: base),
    "warm-up": (
        {"name": "poly", "power": 0.9, "min_lr": 0.001, "warmup_iters": 4, "warmup_start": 0.1},
        lambda base, i: poly(base, i) * min(1, 0.1 + 0.9 * i / 4),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_follows_its_formula_and_can_start_anywhere(segmentor, name):
    options, formula = SCHEDULES[name]
    options = {"name": name, "max_iters": 10, **options}
    schedule = build_schedule(sgd(segmentor), **options)
    found = list(rates(schedule, 10))
    assert found == [pytest.approx((formula(0.01, i), formula(0.1, i)), rel=1e-12) for i in range(10)]
    assert schedule.get_last_lr()[0] == pytest.approx(formula(0.01, 10), abs=1e-15)

    other = sgd(segmentor)
    build_schedule(other, **options)
    assert list(rates(build_schedule(other, **options, iteration=6), 4)) == found[6:]


def test_a_learning_rate_of_zero_stays_there(segmentor):
    still = build_optimizer(segmentor, lr=0.0, momentum=0, weight_decay=0)
    assert set(rates(build_schedule(still, "poly", max_iters=3), 3)) == {(0.0,)}
