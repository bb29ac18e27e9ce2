"""What the losses of pixels are divided by, and mining without a threshold: as mmsegmentation and torchcv have them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lib.losses import SegmentationLoss, cross_entropy, focal_loss, ohem_cross_entropy
from tests import replay_golden

GOLDEN = Path(__file__).parents[1].parent / "shared" / "golden" / "more"
FIXTURES = sorted(GOLDEN.glob("loss_mmseg_*.npz"))
WEIGHT = torch.tensor([0.5, 1.0, 2.0, 1.5, 0.25])
EPSILON = 2.0**-23
weights = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
means = pytest.mark.parametrize("mean", ["valid", "labelled", "all"])


class Recorder(TorchDispatchMode):
    """The names of the operators that were called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(str(operator))
        return operator(*args, **(kwargs or {}))


def example(ignored=0.3, size=(13, 17), images=2):
    """Logits of five classes, some of them sure of the true one, and labels of which a part is ignored."""
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, 5, (images, *size), generator=generator)
    logits = torch.randn(images, 5, *size, generator=generator)
    logits.scatter_add_(1, label[:, None], 6 * torch.rand(images, 1, *size, generator=generator))
    label[torch.rand(label.shape, generator=generator) < ignored] = 255
    return logits.requires_grad_(), label


def pixels(logits, label, weight):
    """In float64, of the pixels that are not ignored: true class, probabilities [n, K], loss and class weight."""
    scores = np.exp(np.moveaxis(logits.detach().double().numpy(), 1, -1).reshape(-1, logits.shape[1]))
    true = label.numpy().reshape(-1)
    probability = (scores / scores.sum(1, keepdims=True))[true != 255]
    true = true[true != 255]
    of_class = np.ones(logits.shape[1]) if weight is None else weight.double().numpy()
    return true, probability, -of_class[true] * np.log(probability[np.arange(len(true)), true]), of_class[true]


def divisor(mean, label, hard, weight, of_pixel):
    """The published denominators: hard pixels (torchcv); class weights, or pixels (mmsegmentation)."""
    if mean == "valid":
        return hard.sum()
    return EPSILON + (of_pixel.sum() if weight is not None or mean == "labelled" else label.numel())


@pytest.mark.skipif(not FIXTURES, reason="needs the reference fixtures")
@pytest.mark.parametrize("file", FIXTURES, ids=lambda file: file.stem)
def test_the_recorded_losses_of_mmsegmentation_agree(file):
    line, holds = replay_golden.replay(file)
    assert holds, line


@weights
@means
@pytest.mark.parametrize("ignored", [0.0, 0.3, 0.9])
def test_cross_entropy_is_over_the_pixels_that_are_asked_for(weight, mean, ignored):
    logits, label = example(ignored)
    true, probability, losses, of_pixel = pixels(logits, label, weight)
    divided_by = label.numel() if mean == "all" and weight is None else of_pixel.sum()
    loss = cross_entropy(logits, label, weight, mean=mean)
    assert loss.item() == pytest.approx(losses.sum() / divided_by, rel=1e-5)
    loss.backward()
    expected = (probability - np.eye(5)[true]) * of_pixel[:, None] / divided_by
    gradient = logits.grad.movedim(1, -1)[label != 255].double().numpy()
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-8)
    assert not logits.grad.movedim(1, -1)[label == 255].any()


@weights
@means
@pytest.mark.parametrize("min_kept", [1, 20, 150, 10**6])
def test_ohem_without_threshold_keeps_the_largest_losses(weight, mean, min_kept):
    logits, label = example()
    *_, losses, of_pixel = pixels(logits, label, weight)
    hard = np.zeros(len(losses), bool)
    hard[np.argsort(-losses)[: min_kept * len(label)]] = True
    loss = ohem_cross_entropy(logits, label, weight, threshold=None, min_kept=min_kept, mean=mean)
    expected = losses[hard].sum() / divisor(mean, label, hard, weight, of_pixel)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert np.array_equal(logits.grad.abs().sum(1)[label != 255].numpy() > 0, hard)
    assert not logits.grad.movedim(1, -1)[label == 255].any()


@weights
@means
@pytest.mark.parametrize("threshold, min_kept", [(0.7, 1), (0.05, 60), (0.3, 10**6)])
def test_ohem_with_threshold_keeps_the_same_pixels_whatever_its_loss_is_divided_by(weight, mean, threshold, min_kept):
    logits, label = example()
    true, probability, losses, of_pixel = pixels(logits, label, weight)
    certainty = probability[np.arange(len(true)), true]
    hard = certainty < max(threshold, np.sort(certainty)[min(min_kept * len(label), len(true) - 1)])
    loss = ohem_cross_entropy(logits, label, weight, threshold=threshold, min_kept=min_kept, mean=mean)
    expected = losses[hard].sum() / divisor(mean, label, hard, weight, of_pixel)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_of_equal_losses_ohem_keeps_no_more_than_it_should():
    logits = torch.zeros(2, 5, 6, 7, requires_grad=True)
    loss = ohem_cross_entropy(logits, torch.ones(2, 6, 7, dtype=torch.long), threshold=None, min_kept=10, mean="all")
    loss.backward()
    assert (logits.grad.abs().sum(1) > 0).sum() == 20
    assert loss.item() == pytest.approx(np.log(5) * 20 / 84)


@pytest.mark.parametrize("alpha", [1.0, 0.25, 0.0])
@means
def test_alpha_scales_the_focal_loss(alpha, mean):
    logits, label = example()
    true, probability, losses, _ = pixels(logits, label, None)
    certainty = probability[np.arange(len(true)), true]
    divided_by = label.numel() if mean == "all" else len(true)
    loss = focal_loss(logits, label, gamma=2.0, alpha=alpha, mean=mean)
    assert loss.item() == pytest.approx(alpha * ((1 - certainty) ** 2 * losses).sum() / divided_by, rel=1e-5)


@weights
@means
@pytest.mark.parametrize("name", ["cross_entropy", "focal", "ohem"])
@pytest.mark.parametrize("threshold", [0.7, None])
def test_a_batch_of_ignored_pixels_costs_nothing(weight, mean, name, threshold):
    logits, label = example(ignored=1.1)
    loss_of = SegmentationLoss(
        name, weight=None if weight is None else weight.tolist(), mean=mean, ohem_threshold=threshold
    )
    loss = loss_of({"out": logits, "aux": logits}, label)["loss"]
    loss.backward()
    assert loss == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


@means
def test_the_settings_reach_every_loss_of_pixels(mean):
    logits, label = example()
    extra = {"ohem": 1.0, "focal": 1.0}
    settings = {"ohem_threshold": None, "ohem_min_kept": 20, "focal_gamma": 1.5, "focal_alpha": 0.25}
    losses = SegmentationLoss("cross_entropy", extra=extra, mean=mean, **settings)(
        {"out": logits, "aux": 2 * logits}, label
    )
    assert losses["out"] == cross_entropy(logits, label, mean=mean)
    assert losses["aux"] == cross_entropy(2 * logits, label, mean=mean)
    assert losses["ohem"] == ohem_cross_entropy(logits, label, threshold=None, min_kept=20, mean=mean)
    assert losses["focal"] == focal_loss(logits, label, gamma=1.5, alpha=0.25, mean=mean)


@weights
@means
@pytest.mark.parametrize("loss_of", [cross_entropy, focal_loss, ohem_cross_entropy])
def test_nothing_is_sorted_or_asked_of_the_device(loss_of, weight, mean):
    """Tensors without numbers cannot be waited for; with a threshold mining asks once whether it must select at all."""
    logits = torch.zeros(2, 5, 6, 7, device="meta")
    label = torch.zeros(2, 6, 7, dtype=torch.long, device="meta")
    options = {"threshold": None} if loss_of is ohem_cross_entropy else {}
    with Recorder() as recorder:
        loss = loss_of(logits, label, None if weight is None else weight.to("meta"), mean=mean, **options)
    assert loss.is_meta and not [name for name in recorder.names if "sort" in name]
