"""The layer's kernels as PyTorch formulas: what runs on a device for which the extension is not built.

They take and return what the compiled kernels do (``ops.py`` has the contracts), but need temporaries as large as the
input.
"""

import torch
from torch import Tensor


def statistics(x: Tensor) -> Tensor:
    dims = [0, *range(2, x.dim())]
    count = x.numel() // x.shape[1]
    if count == 0:
        return x.new_zeros(2 * x.shape[1] + 1, dtype=torch.float64)
    var, mean = torch.var_mean(x.double(), dims, correction=0)
    return torch.cat([mean, count * var, mean.new_tensor([count])])


def finish(
    rows: Tensor,
    eps: float,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float | None,
    batches: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    means, squares = rows[:, :-1].chunk(2, dim=1)
    counts = rows[:, -1:]
    count = counts.sum()
    mean = (counts * means).sum(0) / count.clamp(min=1)
    square = (squares + counts * (means - mean) ** 2).sum(0)
    if running_mean is not None and running_var is not None:
        share = batches.double().reciprocal() if momentum is None else torch.as_tensor(momentum, device=rows.device)
        share = share * (count > 0)
        for running, value in ((running_mean, mean), (running_var, square / (count - 1).clamp(min=1))):
            running.copy_(running + share * (value - running))
    return mean, (square / count.clamp(min=1) + eps).rsqrt(), count


def normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    count: Tensor | None,
    slope: float,
    group: str,
) -> Tensor:
    z = _affine(_centred(x, mean) * _along(invstd, x), weight, bias)
    y = z.relu() if slope == 0 else torch.where(z > 0, z, slope * z)
    return y.to(x)


def normalise_(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, slope: float
) -> None:
    x.copy_(normalise(x, weight, bias, mean, invstd, None, slope, ""))


def sums(
    grad: Tensor,
    saved: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    slope: float,
    from_output: bool,
) -> Tensor:
    d, normal = _before_activation(grad, saved, weight, bias, mean, invstd, slope, from_output)
    dims = [0, *range(2, saved.dim())]
    return torch.stack([d.sum(dims), (d * normal).sum(dims)])


def input_gradient(
    grad: Tensor,
    saved: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    total: Tensor | None,
    count: Tensor | None,
    slope: float,
    from_output: bool,
) -> Tensor:
    d, normal = _before_activation(grad, saved, weight, bias, mean, invstd, slope, from_output)
    if total is not None:
        means = total / count.clamp(min=1)
        d = d - _along(means[0], d) - normal * _along(means[1], d)
    scale = invstd if weight is None else invstd * weight
    return (d * _along(scale, d)).to(saved)


def _before_activation(
    grad: Tensor,
    saved: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    slope: float,
    from_output: bool,
) -> tuple[Tensor, Tensor]:
    """The gradient at the activation's input, and the normalised input; both in float64."""
    if from_output:
        z = saved.double()
        z = torch.where(z > 0, z, z / slope)
        normal = z if bias is None else z - _along(bias, z)
        if weight is not None:
            normal = normal * _along(torch.where(weight == 0, 0, 1 / weight.double()), z)
    else:
        normal = _centred(saved, mean) * _along(invstd, saved)
        z = _affine(normal, weight, bias)
    return torch.where(z > 0, grad.double(), slope * grad.double()), normal


def _centred(x: Tensor, mean: Tensor) -> Tensor:
    return x.double() - _along(mean, x)


def _affine(normal: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    z = normal if weight is None else normal * _along(weight, normal)
    return z if bias is None else z + _along(bias, z)


def _along(vector: Tensor, x: Tensor) -> Tensor:
    """``vector`` [C] in a shape that broadcasts over ``x`` [N, C, ...], in float64."""
    return vector.double().view(-1, *[1] * (x.dim() - 2))
