"""The losses agree with the published ones: with their recorded values and with their definition in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.base.errors import UserError
from lib.losses import SegmentationLoss, cross_entropy, focal_loss, ohem_cross_entropy
from lib.losses.regions import dice_loss, lovasz_softmax

GOLDEN = Path(__file__).parents[1].parent / "shared" / "golden"
FIXTURES = sorted(GOLDEN.glob("loss_*.npz"))
WEIGHT = torch.tensor([0.5, 1.0, 2.0, 1.5, 0.25])


def reference(logits, label, weight, ignore, threshold=None, min_kept=None):
    """Cross entropy, or OHEM where a threshold is given, by its definition: float64, NumPy, a full sort."""
    scores = np.moveaxis(logits.detach().double().numpy(), 1, -1).reshape(-1, logits.shape[1])
    true = label.numpy().reshape(-1)
    scores, true = scores[true != ignore], true[true != ignore]
    if not len(true):
        return 0.0
    weight = np.ones(scores.shape[1]) if weight is None else weight.double().numpy()
    probability = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    probability = probability[np.arange(len(true)), true]
    losses = -weight[true] * np.log(probability)
    if threshold is None:
        return losses.sum() / weight[true].sum()
    order = np.argsort(probability)
    bound = max(threshold, probability[order[min(min_kept * len(logits), len(true) - 1)]])
    hard = losses[probability < bound]
    return hard.mean() if len(hard) else 0.0


def example(confidence=0.0, ignored=0.2, size=(13, 17)):
    """Logits that favour the true class by up to ``confidence``, and labels of which a part is ignored."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 5, (2, *size), generator=generator)
    logits = torch.randn(2, 5, *size, generator=generator)
    favour = confidence * torch.rand(2, 1, *size, generator=generator)
    logits.scatter_add_(1, label[:, None], favour)
    label[torch.rand(label.shape, generator=generator) < ignored] = 255
    return logits.requires_grad_(), label


@pytest.mark.skipif(not FIXTURES, reason="needs the reference fixtures")
@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", ["ce", "ohem"])
def test_fixtures_agree_in_value_and_gradient(path, kind):
    fixture = np.load(path)
    case = json.loads(str(fixture["description"]))
    logits = torch.tensor(fixture["logits"], requires_grad=True)
    arguments = {
        "label": torch.tensor(fixture["target"]),
        "weight": None if case["weight"] is None else torch.tensor(case["weight"]),
        "ignore": case["ignore_index"],
    }
    if kind == "ce":
        loss = cross_entropy(logits, **arguments)
    else:
        loss = ohem_cross_entropy(logits, **arguments, threshold=case["thresh"], min_kept=case["min_kept"])
    loss.backward()
    expected = np.nan_to_num(fixture[f"loss_{kind}"])  # the published cross entropy is nan where all is ignored
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits.grad.numpy(), fixture[f"grad_{kind}"], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_cross_entropy_is_divided_by_the_weights_of_the_counted_pixels(weight):
    logits, label = example()
    assert cross_entropy(logits, label, weight).item() == pytest.approx(reference(logits, label, weight, 255), rel=1e-5)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("confidence", [0.0, 12.0], ids=["untrained", "trained"])
@pytest.mark.parametrize("min_kept", [0, 1, 30, 150, 10**6])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_ohem_is_the_mean_over_the_pixels_below_the_bound(weight, confidence, min_kept, threshold):
    logits, label = example(confidence)
    loss = ohem_cross_entropy(logits, label, weight, threshold=threshold, min_kept=min_kept)
    assert loss.item() == pytest.approx(reference(logits, label, weight, 255, threshold, min_kept), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("confidence", [0.0, 12.0], ids=["untrained", "trained"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss_takes_certain_pixels_lightly(weight, confidence, gamma):
    logits, label = example(confidence)
    probability = logits.detach().double().softmax(1).numpy()
    weights = np.ones(5) if weight is None else weight.double().numpy()
    total = divisor = 0.0
    for image, row, column in np.argwhere(label.numpy() != 255):
        true = label[image, row, column].item()
        p = probability[image, true, row, column]
        total += weights[true] * -((1 - p) ** gamma) * np.log(p)
        divisor += weights[true]
    assert focal_loss(logits, label, weight, gamma=gamma).item() == pytest.approx(total / divisor, rel=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_gradient_of_the_focal_loss_is_that_of_its_value(gamma):
    logits, label = example(size=(4, 5))
    logits = logits.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, label, gamma=gamma), logits)


def test_the_focal_loss_of_a_certain_pixel_has_a_finite_gradient():
    logits = torch.tensor([[200.0, 0.0], [0.0, 0.0]])[:, :, None, None].requires_grad_()
    focal_loss(logits, torch.tensor([0, 255])[:, None, None], gamma=0.5).backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_ohem_gives_no_gradient_to_easy_and_to_ignored_pixels():
    logits, label = example(confidence=12.0)
    ohem_cross_entropy(logits, label, threshold=0.7, min_kept=1).backward()
    true = label.masked_fill(label == 255, 0)
    easy = logits.softmax(1).gather(1, true[:, None])[:, 0] >= 0.7
    touched = logits.grad.abs().sum(1) > 0
    assert 0 < touched.sum() < touched.numel()
    assert torch.equal(touched, ~easy & (label != 255))


def test_ohem_keeps_no_pixel_when_all_are_equally_easy():
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 5
    logits.requires_grad_()
    loss = ohem_cross_entropy(logits, torch.zeros(1, 4, 4, dtype=torch.long), min_kept=8)
    loss.backward()
    assert loss == 0 and not logits.grad.any()


@pytest.mark.parametrize("loss_of", [cross_entropy, ohem_cross_entropy, focal_loss])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_a_batch_of_ignored_pixels_costs_nothing(loss_of, weight):
    logits, label = example(ignored=1.1)
    loss = loss_of(logits, label, weight)
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("loss_of", [cross_entropy, ohem_cross_entropy, focal_loss])
def test_labels_are_resized_to_smaller_logits_by_nearest_neighbour(loss_of):
    logits, _ = example(size=(6, 8))
    _, label = example(size=(12, 24))
    assert loss_of(logits, label) == loss_of(logits, label[:, ::2, ::3])


@pytest.mark.parametrize("loss_of", [cross_entropy, ohem_cross_entropy, focal_loss])
def test_low_precision_logits_are_taken_to_float32_first(loss_of):
    logits, label = example()
    logits = logits.detach().bfloat16()
    loss = loss_of(logits, label, WEIGHT)
    assert loss.dtype == torch.float32
    assert loss == loss_of(logits.float(), label, WEIGHT)


@pytest.mark.parametrize("name, main_of", [("ohem", ohem_cross_entropy), ("cross_entropy", cross_entropy)])
def test_the_auxiliary_loss_is_weighted_cross_entropy(name, main_of):
    logits, label = example(confidence=6.0)
    aux = logits.detach().flip(0).requires_grad_()
    losses = SegmentationLoss(name, weight=WEIGHT.tolist(), aux_weight=0.4)({"out": logits, "aux": aux}, label)
    main = main_of(logits, label, WEIGHT).item()
    side = reference(aux, label, WEIGHT, 255)
    assert losses["out"].item() == main
    assert losses["aux"].item() == pytest.approx(side, rel=1e-5)
    assert losses["loss"].item() == pytest.approx(main + 0.4 * side, rel=1e-5)
    assert losses["loss"].requires_grad and not losses["out"].requires_grad and not losses["aux"].requires_grad


def test_without_an_auxiliary_output_the_loss_is_the_main_loss():
    logits, label = example(confidence=12.0)
    losses = SegmentationLoss(ohem_threshold=0.3, ohem_min_kept=10)({"out": logits}, label)
    assert set(losses) == {"loss", "out"}
    assert losses["loss"].item() == pytest.approx(reference(logits, label, None, 255, 0.3, 10), rel=1e-4)


def test_further_losses_of_the_main_output_are_weighted_and_told_apart():
    logits, label = example(confidence=6.0)
    outputs = {"out": logits, "aux": logits.detach().flip(0)}
    extra = {"dice": 0.5, "lovasz": 2.0, "focal": 0.25}
    loss = SegmentationLoss("cross_entropy", extra=extra, focal_gamma=3.0, weight=WEIGHT.tolist(), aux_weight=0.1)
    losses = loss(outputs, label)
    expected = {
        "out": cross_entropy(logits, label, WEIGHT),
        "dice": dice_loss(logits, label),
        "lovasz": lovasz_softmax(logits, label),
        "focal": focal_loss(logits, label, WEIGHT, gamma=3.0),
        "aux": cross_entropy(outputs["aux"], label, WEIGHT),
    }
    assert list(losses) == ["loss", *expected]
    assert all(losses[name] == value and not losses[name].requires_grad for name, value in expected.items())
    total = sum(factor * expected[name].item() for name, factor in ({"out": 1, "aux": 0.1} | extra).items())
    assert losses["loss"].item() == pytest.approx(total, rel=1e-6)


def test_class_weights_stay_out_of_checkpoints():
    loss = SegmentationLoss(weight=WEIGHT.tolist())
    assert not loss.state_dict()
    assert torch.equal(dict(loss.named_buffers())["weight"], WEIGHT)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"name": "hinge"}, "hinge.*ohem, cross_entropy, focal, dice, lovasz"),
        ({"extra": {"hinge": 1.0}}, "hinge.*ohem, cross_entropy, focal, dice, lovasz"),
        ({"mean": "most"}, "most.*valid, labelled, all"),
        ({"ohem_threshold": 7.0}, "7.0.*0..1"),
        ({"ohem_min_kept": -1}, "-1"),
    ],
)
def test_settings_that_cannot_be_are_named(arguments, words):
    with pytest.raises(UserError, match=words):
        SegmentationLoss(**arguments)


def test_too_few_class_weights_are_named():
    logits, label = example()
    with pytest.raises(UserError, match="3 class weights for 5 classes"):
        SegmentationLoss(weight=[1.0, 1.0, 1.0])({"out": logits}, label)
