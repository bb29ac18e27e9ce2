"""Dice and Lovász-softmax losses equal their papers' formulas, written out in float64, class by class."""

import numpy as np
import pytest
import torch

from lib.losses import SegmentationLoss, regions
from lib.losses.regions import dice_loss, lovasz_softmax

LOSSES = [dice_loss, lovasz_softmax]


def example(size=(9, 11), classes=6, confidence=0.0):
    """Logits of ``classes`` classes and labels that show all but the last, a fifth of them ignored."""
    generator = torch.Generator().manual_seed(3)
    label = torch.randint(0, classes - 1, (2, *size), generator=generator)
    logits = torch.randn(2, classes, *size, generator=generator)
    logits.scatter_add_(1, label[:, None], torch.full((2, 1, *size), confidence))
    label[torch.rand(label.shape, generator=generator) < 0.2] = 255
    return logits, label


def flat(logits, label):
    """Probabilities [N, K] and train ids [N] of the pixels that count, in float64."""
    scores = np.exp(np.moveaxis(logits.double().numpy(), 1, -1).reshape(-1, logits.shape[1]))
    true = label.numpy().reshape(-1)
    return (scores / scores.sum(1, keepdims=True))[true != 255], true[true != 255]


def dice_reference(logits, label):
    probability, true = flat(logits, label)
    losses = []
    for index in np.unique(true):
        p, g = probability[:, index], (true == index).astype(float)
        losses.append(1 - 2 * (p * g).sum() / ((p**2).sum() + (g**2).sum()))
    return np.mean(losses)


def lovasz_reference(logits, label):
    """The extension's definition: falling errors times the increments of |M| / |gt u M| as the set M grows."""
    probability, true = flat(logits, label)
    losses = []
    for index in np.unique(true):
        is_true = true == index
        errors = np.where(is_true, 1 - probability[:, index], probability[:, index])
        wrong, before, loss = np.zeros(len(true), bool), 0.0, 0.0
        for pixel in np.argsort(-errors):
            wrong[pixel] = True
            jaccard = wrong.sum() / (is_true | wrong).sum()
            loss += errors[pixel] * (jaccard - before)
            before = jaccard
        losses.append(loss)
    return np.mean(losses)


@pytest.mark.parametrize("confidence", [0.0, 3.0, 8.0], ids=["untrained", "half trained", "trained"])
@pytest.mark.parametrize("loss_of, reference", [(dice_loss, dice_reference), (lovasz_softmax, lovasz_reference)])
def test_the_loss_is_its_papers_formula_over_the_present_classes(loss_of, reference, confidence):
    logits, label = example(confidence=confidence)
    assert loss_of(logits, label).item() == pytest.approx(reference(logits, label), rel=1e-5)


@pytest.mark.parametrize("loss_of", LOSSES)
def test_gradients_are_those_of_the_value(loss_of):
    logits, label = example(size=(4, 5))
    assert torch.autograd.gradcheck(lambda x: loss_of(x, label), logits.double().requires_grad_())


@pytest.mark.parametrize("loss_of", LOSSES)
def test_certain_predictions_cost_what_their_regions_miss(loss_of):
    _, label = example()
    generator = torch.Generator().manual_seed(0)
    predicted = torch.where(torch.rand(label.shape, generator=generator) < 0.7, label, (label + 1) % 5) % 6
    logits = 1000.0 * torch.nn.functional.one_hot(predicted, 6).movedim(-1, 1)
    true, predicted = label[label != 255], predicted[label != 255]
    costs = []
    for index in true.unique():
        hits = ((true == index) & (predicted == index)).sum().item()
        either = ((true == index) | (predicted == index)).sum().item()
        costs.append(1 - (2 * hits / (either + hits) if loss_of is dice_loss else hits / either))
    assert loss_of(logits, label).item() == pytest.approx(np.mean(costs), rel=1e-5)


@pytest.mark.parametrize("loss_of", LOSSES)
def test_ignored_pixels_do_not_count(loss_of):
    logits, label = example()
    logits.requires_grad_()
    loss = loss_of(logits, label)
    (gradient,) = torch.autograd.grad(loss, logits)
    ignored = (label == 255)[:, None].expand_as(logits)
    assert not gradient[ignored].any() and gradient[~ignored].any()
    changed = torch.where(ignored, -7.0 * logits.detach(), logits.detach())
    assert loss_of(changed, label).item() == loss.item()


@pytest.mark.parametrize("loss_of", LOSSES)
def test_a_batch_of_ignored_pixels_costs_nothing(loss_of):
    logits, label = example()
    logits.requires_grad_()
    loss = loss_of(logits, torch.full_like(label, 255))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("at_once", [1, 2 * 9 * 11, 5 * 9 * 11])
def test_the_classes_that_are_sorted_together_do_not_matter(monkeypatch, at_once):
    logits, label = example()
    logits.requires_grad_()
    expected = lovasz_softmax(logits, label)
    (gradient,) = torch.autograd.grad(expected, logits)
    monkeypatch.setattr(regions, "SORTED_AT_ONCE", at_once)
    loss = lovasz_softmax(logits, label)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], gradient)


@pytest.mark.parametrize("loss_of", LOSSES)
def test_low_precision_logits_are_taken_to_float32_first(loss_of):
    logits, label = example()
    logits = logits.bfloat16()
    assert loss_of(logits, label).dtype == torch.float32
    assert loss_of(logits, label) == loss_of(logits.float(), label)


@pytest.mark.parametrize("name, loss_of", [("dice", dice_loss), ("lovasz", lovasz_softmax)])
def test_they_serve_as_main_loss_with_labels_of_another_size(name, loss_of):
    logits, _ = example(size=(6, 8))
    _, label = example(size=(12, 24))
    losses = SegmentationLoss(name, weight=[2.0] * 6)({"out": logits}, label)
    assert losses["out"] == losses["loss"] == loss_of(logits, label[:, ::2, ::3])
