"""The context blocks by their formulas: every step as it is written, the map of all pairs of positions in memory.

Each function takes a block of ``lib.models.blocks`` with the options that ``blocks.py`` measures, and its input or
inputs, B x C x H x W, and returns what the block returns, from the block's own layers.
"""

import torch
from torch import Tensor

from lib.models.blocks.asymmetric import AsymmetricFusion, AsymmetricPyramid
from lib.models.blocks.compact_generalized import CompactGeneralizedNonLocal
from lib.models.blocks.criss_cross import CrissCrossAttention
from lib.models.blocks.double_attention import DoubleAttention
from lib.models.blocks.global_context import GlobalContext
from lib.models.blocks.nonlocal_block import NonLocal
from lib.models.blocks.spectral import SpectralStage
from lib.models.blocks.unary import Unary


def non_local(block: NonLocal, x: Tensor) -> Tensor:
    """The four modes; of the options whitening over channels and positions, the mask and the gain."""
    if block.mode == "gaussian":
        query = key = x.flatten(2)
    else:
        query, key = block.query(x).flatten(2), block.key(x).flatten(2)
    if "layer" in block.whitening:
        query, key = (z - z.mean((1, 2), keepdim=True) for z in (query, key))
    value, positions = block.value(x).flatten(2), query.shape[2]
    if block.mode == "dot_product":
        attention = query.mT @ key / positions
    elif block.mode == "concatenation":
        of_query, of_key = block.concatenated.weight.flatten().chunk(2)
        left, right = of_query @ query, of_key @ key
        attention = torch.relu(left[:, :, None] + right[:, None]) / positions
    else:
        attention = torch.softmax(query.mT @ key * block.scale, dim=2)
    context = block.gamma * (value @ attention.mT)
    if block.mask is not None:
        context = context + value @ block.mask(x).flatten(2).softmax(dim=2).mT
    return x + context.view_as(x)


def unary(block: Unary, x: Tensor) -> Tensor:
    """The mean of all positions' values."""
    value, attention = block.value(x).flatten(2), block.mask(x).flatten(2).softmax(dim=2)
    return x + (value @ attention.mT).unsqueeze(3)


def global_context(block: GlobalContext, x: Tensor) -> Tensor:
    """Attention pooling and an added transform."""
    attention = block.mask(x).flatten(2).softmax(dim=2)
    return x + block.add((x.flatten(2) * attention).sum(2)[:, :, None, None])


def asymmetric_fusion(block: AsymmetricFusion, low: Tensor, high: Tensor) -> Tensor:
    """Project, pool, attend with the map of positions and bins, project back, join, project."""
    contexts = []
    for branch in block.branches:
        pyramid = [torch.nn.AdaptiveAvgPool2d(bins) for bins in branch.pyramid]
        query, key, value = (branch.query or branch.key)(high), branch.key(low), branch.value(low)
        key, value = (torch.cat([pool(z).flatten(2) for pool in pyramid], dim=2) for z in (key, value))
        attention = torch.softmax(query.flatten(2).mT @ key / query.shape[1] ** 0.5, dim=2)
        contexts.append(branch.output((value @ attention.mT).unflatten(2, high.shape[2:])))
    return block.norm(block.fuse(torch.cat([sum(contexts), high], dim=1)))


def asymmetric_pyramid(block: AsymmetricPyramid, x: Tensor) -> Tensor:
    """A map's attention to its own pyramid."""
    return asymmetric_fusion(block, x, x).relu()


def spectral(stage: SpectralStage, x: Tensor, *, affinity: str, unit: str) -> Tensor:
    """Stages of one unit: the affinity as a matrix, and the unit's filter with it."""
    matrix = affinity_matrix(stage, x, affinity)
    layers = stage.units[0]
    value = layers.value(x).flatten(2)

    def spread(signal: Tensor) -> Tensor:
        return signal @ matrix.mT

    def position_wise(layer: torch.nn.Module, signal: Tensor) -> Tensor:
        return layer(signal.unflatten(2, x.shape[2:])).flatten(2)

    if unit == "chebyshev":
        terms = [value, spread(value)]
        while len(terms) <= layers.order:
            terms.append(2 * spread(terms[-1]) - terms[-2])
        filtered = torch.cat(terms[1:], dim=1)
    elif unit == "arma":
        filtered = torch.cat([value] * layers.order, dim=1)
        for _ in range(layers.iterations):
            filtered = position_wise(layers.recursion, spread(filtered)) + position_wise(layers.drive, value)
    elif unit == "cayley":
        # (hL - iI)(hL + iI)^-1, repeatedly
        laplacian = layers.log_zoom.exp() * (torch.eye(matrix.shape[1], dtype=x.dtype, device=x.device) - matrix)
        imaginary = 1j * torch.eye(matrix.shape[1], dtype=x.dtype, device=x.device)
        moved, parts = value.mT + 0j, []
        for _ in range(layers.order):
            moved = torch.linalg.solve(laplacian + imaginary, (laplacian - imaginary) @ moved)
            parts += [moved.real.mT, moved.imag.mT]
        filtered = torch.cat(parts, dim=1)
    elif unit == "disentangled":
        filtered = spread(value) + value @ layers.mask(x).flatten(2).softmax(dim=2).mT
    elif unit == "squared_laplacian":
        once = value - spread(value)
        filtered = position_wise(layers.mix, value) + once - spread(once)
    else:
        filtered = value - spread(value) if unit == "laplacian" else spread(value)
    context = position_wise(layers.output, filtered)
    if layers.skip is not None:
        context = context + position_wise(layers.skip, value)
    return x + layers.relu(layers.norm(context.view_as(x)))


def affinity_matrix(stage: SpectralStage, x: Tensor, affinity: str) -> Tensor:
    """B x N x N."""
    query, key = stage.query(x).flatten(2), stage.key(x).flatten(2)
    if affinity == "softmax":
        return torch.softmax(query.mT @ key, dim=2)
    matrix = query.relu().mT @ key.relu()
    if stage.symmetric:
        matrix = (matrix + matrix.mT) / 2
    if affinity == "relu":
        return matrix
    root = matrix.sum(2).rsqrt()
    return root[:, :, None] * matrix * root[:, None, :]


def double_attention(block: DoubleAttention, x: Tensor) -> Tensor:
    """The paper's two steps, gather and distribute, which need no map of pairs."""
    features, gather, distribute = (layer(x).flatten(2) for layer in (block.features, block.gather, block.distribute))
    descriptors = features @ gather.softmax(dim=2).mT
    return x + block.output((descriptors.mT @ distribute.softmax(dim=2)).unflatten(2, x.shape[2:]))


def compact_generalized(block: CompactGeneralizedNonLocal, x: Tensor) -> Tensor:
    """Every entry of a group attends to every other: a map of (positions times channels of a group) squared."""
    query, key, value = (
        layer(x).flatten(1).unflatten(1, (block.groups, -1)) for layer in (block.query, block.key, block.value)
    )
    products = query[:, :, :, None] * key[:, :, None]
    kernel = sum(coefficient * products**k for k, coefficient in enumerate(block.coefficients))
    context = (kernel @ value[:, :, :, None]).view(len(x), -1, *x.shape[2:])
    return x + block.norm(block.output(context))


def criss_cross(block: CrissCrossAttention, x: Tensor) -> Tensor:
    """Affinities to the column and to the row, one softmax over both, one sum over both."""
    for _ in range(block.recurrence):
        query, key, value = block.query(x), block.key(x), block.value(x)
        height = x.shape[2]
        column = torch.einsum("bchw,bcgw->bhwg", query, key)
        own = torch.eye(height, dtype=torch.bool, device=x.device)[:, None]
        column = column.masked_fill(own, -torch.inf)
        row = torch.einsum("bchw,bchv->bhwv", query, key)
        attention = torch.cat([column, row], dim=3).softmax(dim=3)
        column, row = attention[..., :height], attention[..., height:]
        context = torch.einsum("bhwg,bcgw->bchw", column, value) + torch.einsum("bhwv,bchv->bchw", row, value)
        x = x + block.gamma * context
    return x
