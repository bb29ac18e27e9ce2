"""Weights of a first convolution for images of another number of bands than it was trained on."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def spread_bands(weight: Tensor, bands: int) -> Tensor:
    """The weights of a first convolution for images of ``bands`` bands, so that its outputs keep their size.

    Of I bands, C are made by w'[:, c] = w[:, c mod I] * I / C; for C = 1 w' is the sum over the I bands, which sees a
    grey picture as I equal bands were seen. As timm's ``adapt_input_conv`` (Wightman, "PyTorch Image Models", 2019)
    does for I = 3. Where the C bands are the I ones repeated, outputs stay the same.

    Args:
        weight: [O, I, h, w].
        bands: C.

    Returns:
        [O, C, h, w].
    """
    known = weight.shape[1]
    if bands == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, torch.arange(bands) % known] * (known / bands)


def fit_bands(state: Mapping[str, Tensor], network: nn.Module) -> tuple[Mapping[str, Tensor], str | None]:
    """``state`` with its first convolution spread over the bands of ``network``, and a line that says so.

    Only where that convolution's number of bands is all that differs in its shape; else ``state`` itself and None.
    """
    name, expected = next((item for item in network.state_dict().items() if item[1].ndim == 4), (None, None))
    found = state.get(name)
    if found is None or found.ndim != 4 or not found.is_floating_point() or not found.numel():
        return state, None
    known, bands = found.shape[1], expected.shape[1]
    if known == bands or found.shape[:1] + found.shape[2:] != expected.shape[:1] + expected.shape[2:]:
        return state, None
    how = f"the sum over the {known}" if bands == 1 else f"w'[:, c] = w[:, c mod {known}] * {known} / {bands}"
    line = f"{name} spread from {known} to {bands} band{'s' * (bands > 1)}: {how}"
    return {**state, name: spread_bands(found, bands)}, line
