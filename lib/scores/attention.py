"""Whether an attention map does what it claims: statistics of its rows against the labels, and among themselves.

The weights of a query i are taken as shares, w(i, j) = |weight(i, j)| / sum_j |weight(i, j)|; those of a softmax are
shares already. A query without any weight counts nowhere. Positions are those of the map: labels have been brought to
its size. The DNL paper (Yin et al., "Disentangled Non-Local Neural Networks", ECCV 2020) compares maps with the ground
truth in a table, but how it counts is not known here: the estimators are this project's own.

    within category    mean over queries i that have a class of sum_j w(i, j) [label_j = label_i]
    boundary           mean over the same queries of sum_j w(i, j) [j on a boundary]
    precision          mean over the same queries: of the positions that i attends to most, as many as its class has,
                       the share that is of its class (where weights are equal, the mean over all orders)
    entropy            mean over all queries of -sum_j w(i, j) log w(i, j), in nats
    distance           mean over all queries of sum_j w(i, j) |i - j|, in pixels
    difference         mean over all pairs of rows of (1 - cosine) / 2: do maps differ between queries? (Cao et al.,
                       "GCNet", 2019, its table 1)

The first two take one call of the block's own operator with one-hot labels as values; the others need the rows, which
are made and dropped a chunk at a time. Nothing holds more than a multiple of the positions.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ENTRIES = 1 << 21
"""Weights of the rows that are held at a time."""


class Term(Protocol):
    """A matrix of weights from M positions to N: see ``lib.models.blocks.terms``."""

    rows: Callable[[Sequence[int]], Tensor]
    apply: Callable[[Tensor], Tensor]
    constant: bool
    signed: bool


@dataclass(frozen=True)
class Scene:
    """What a map is compared with, for one image.

    Attributes:
        query_label: train ids int64 [h, w] of the positions that attend; ``num_classes`` and more are of no class.
        source_label: those of the positions that are attended, [h', w'].
        num_classes: K.
        pixels: height and width of the image in pixels.
        radius: a position is on a boundary where a position at most this far from it, along each side, has another
            class; both must have one.
    """

    query_label: Tensor
    source_label: Tensor
    num_classes: int
    pixels: tuple[float, float]
    radius: int = 1

    @property
    def boundary(self) -> Tensor:
        """bool [M]: which of the attended positions are on a boundary."""
        return boundary_of(self.source_label, self.num_classes, self.radius).flatten()

    def one_hot(self) -> Tensor:
        """bool [M, K] of the attended positions; of no class: all false."""
        label = self.source_label.flatten()
        return label[:, None] == torch.arange(self.num_classes, device=label.device)

    def valid(self) -> Tensor:
        """int64: the queries that have a class, in the order of classes."""
        label = self.query_label.flatten()
        order = label.argsort(stable=True)
        return order[label[order] < self.num_classes]

    def uniform(self) -> dict[str, float]:
        """The figures of a map whose weights are all the same; sum_c p_c^2 where every position has a class."""
        mine, share = self.query_label.flatten()[self.valid()], self.one_hot().double().mean(0)
        count = self.source_label.numel()
        within = share[mine].mean().item()
        return {
            "within_category": within,
            "boundary": self.boundary.double().mean().item(),
            "precision": within,
            "entropy": math.log(count),
            "distance": self._mean_distance(),
            "difference": 0.0,
        }

    def _mean_distance(self) -> float:
        """Over all pairs of a query and an attended position: few differ, as pairs of rows and of columns do."""
        differing = []
        for side, mine, theirs in zip(self.pixels, self.query_label.shape, self.source_label.shape, strict=True):
            own, others = (_centres(torch.arange(count), count, side) for count in (mine, theirs))
            apart = (own[:, None] - others).abs_().round_(decimals=9)
            differing.append(apart.unique(return_counts=True))
        (down, rows), (across, columns) = differing
        pairs = rows[:, None] * columns
        return ((down[:, None].square() + across.square()).sqrt_() * pairs).sum().item() / pairs.sum().item()

    def distances(self, queries: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Pixels from the centre of each of ``queries`` (int64 [Q]) to those of the attended positions: [Q, M]."""
        width = self.query_label.shape[1]
        squares = []
        for index, side, mine, theirs in zip(
            (queries // width, queries % width),
            self.pixels,
            self.query_label.shape,
            self.source_label.shape,
            strict=True,
        ):
            own, others = _centres(index, mine, side), _centres(torch.arange(theirs, device=index.device), theirs, side)
            squares.append((own[:, None] - others).square().to(dtype))
        down, across = squares
        return (down[:, :, None] + across[:, None]).flatten(1).sqrt_()


def _centres(index: Tensor, count: int, side: float) -> Tensor:
    """Where the positions ``index`` of ``count`` along a ``side`` have their centres, in pixels."""
    return (index.double() + 0.5) * (side / count)


def boundary_of(label: Tensor, num_classes: int, radius: int) -> Tensor:
    """bool [h, w]: where a label [h, w] has a class and another class lies within ``radius`` along each side."""
    has_class = label < num_classes
    # The largest and the smallest class around; positions without any are neither.
    around = [
        F.max_pool2d(torch.where(has_class, sign * label, -num_classes).double()[None, None], 2 * radius + 1, 1, radius)
        for sign in (1, -1)
    ]
    return has_class & (around[0] != -around[1])[0, 0]


@torch.no_grad()
def consistency(term: Term, scene: Scene) -> dict[str, float]:
    """``within_category`` and ``boundary`` of one image's term, by its operator; NaN where no query has a class.

    With them ``mass``: the mean over all queries of the sum of the moduli of their weights.
    """
    valid = scene.valid()
    marks = torch.cat([scene.one_hot(), scene.boundary[:, None]], dim=1)
    values = torch.cat([marks, torch.ones_like(marks[:, :1])], dim=1)
    if term.signed:
        chunks = torch.arange(scene.query_label.numel()).split(_at_once(len(marks)))
        sums = torch.cat([rows @ values.to(rows.dtype) for rows in (term.rows(chunk)[0].abs() for chunk in chunks)])
    else:
        sums = term.apply(values.to(term.rows([0]).dtype)[None])[0]
    mass = sums[:, -1].mean().item()
    taken, total = sums[valid].split([marks.shape[1], 1], dim=1)
    taken, total = taken.double(), total.double().flatten()
    alive = total > 0
    shares, mine = taken[alive] / total[alive, None], scene.query_label.flatten()[valid][alive]
    within = shares.gather(1, mine[:, None])
    return {"within_category": within.mean().item(), "boundary": shares[:, -1].mean().item(), "mass": mass}


@torch.no_grad()
def statistics(term: Term, scene: Scene) -> dict[str, float]:
    """All figures of one image's term; NaN for those of queries that have a class where none has."""
    found = consistency(term, scene)
    count, classes = scene.source_label.numel(), scene.num_classes
    label = scene.query_label.flatten().clamp(max=classes)
    same = scene.one_hot()
    precision = _Mean()
    entropy, distance, queries = _Mean(), _Mean(), 0
    direction = 0
    # Queries of one class together: as many of their positions count for precision.
    order = torch.zeros(1, dtype=torch.long) if term.constant else label.argsort(stable=True).cpu()
    weight_of = torch.bincount(label.cpu(), minlength=classes + 1).double() if term.constant else None
    for chunk in _chunks(order, label.cpu(), count):
        rows = term.rows(chunk)[0].abs()
        total = rows.sum(1)
        alive = total > 0
        rows, chunk = (rows, chunk) if bool(alive.all()) else (rows[alive], chunk[alive.cpu()])
        rows /= total[alive, None]
        direction = direction + (rows.square().sum(1).rsqrt() @ rows).double()
        queries += len(rows)
        entropy.add(torch.special.entr(rows).sum(1))
        if weight_of is not None:
            continue
        distance.add(scene.distances(chunk.to(rows.device), rows.dtype).mul_(rows).sum(1))
        kind = int(label[chunk[0]]) if len(chunk) else classes
        if kind < classes:
            precision.add(_precision(rows, same[:, kind]))
    if weight_of is not None:
        _of_constant(rows, scene, same, weight_of, precision, distance)
    # ||mean of unit vectors||^2 is the mean cosine of all pairs.
    cosine = (direction / max(queries, 1)).square().sum().item() if queries else math.nan
    return found | {
        "precision": precision.value,
        "entropy": entropy.value,
        "distance": distance.value,
        "difference": max(0.0, (1 - cosine) / 2) if queries else math.nan,
    }


def _of_constant(
    row: Tensor, scene: Scene, same: Tensor, weight_of: Tensor, precision: "_Mean", distance: "_Mean"
) -> None:
    """What differs among queries that share one row [1, M]: where they are, and their class."""
    if not len(row):
        return
    for chunk in torch.arange(scene.query_label.numel(), device=row.device).split(_at_once(row.shape[1])):
        distance.add(scene.distances(chunk, row.dtype) @ row[0])
    for kind, many in enumerate(weight_of[:-1].tolist()):
        if many:
            precision.add(_precision(row, same[:, kind]), many)


def _precision(rows: Tensor, same: Tensor) -> Tensor:
    """Of each row's largest weights, as many as ``same`` (bool [M]) has, the share where it holds: [Q] float64."""
    wanted = int(same.sum())
    if not wanted:
        return torch.zeros(len(rows), dtype=torch.float64)
    values = rows.cpu().numpy()
    least = torch.from_numpy(np.partition(values, len(same) - wanted, axis=1)[:, len(same) - wanted, None].copy())
    rows, mine = torch.from_numpy(values), torch.from_numpy(values[:, same.cpu().numpy()])
    above, ties = (rows > least).sum(1), (rows == least).sum(1)
    hits = (mine > least).sum(1) + (wanted - above) * ((mine == least).sum(1) / ties.double())
    return hits / wanted


def difference(features: Tensor) -> float:
    """The mean over all pairs of positions of (1 - cosine) / 2 of features [C, ...], in O(N C)."""
    flat = features.flatten(1)
    unit = flat / flat.double().norm(dim=0).clamp_min(1e-300)
    return max(0.0, (1 - unit.mean(1).square().sum().item()) / 2)


def unary_share(masses: Mapping[str, float], gamma: float | None) -> float:
    """What part of the weight of all queries is the unary term's, 0..1, gamma counted by its modulus.

    Args:
        masses: of the terms ``pairwise`` and ``unary``, as far as there are both.
        gamma: factor of the pairwise term; None for 1.
    """
    pair = masses.get("pairwise", 0.0) * (1.0 if gamma is None else abs(gamma))
    unary = masses.get("unary", 0.0)
    return unary / (pair + unary) if pair + unary else math.nan


def _at_once(count: int) -> int:
    """Rows of ``count`` weights that are held at a time."""
    return max(1, CHUNK_ENTRIES // count)


def _chunks(order: Tensor, label: Tensor, count: int) -> Iterator[Tensor]:
    """The queries of ``order`` in pieces of one class, whose rows of ``count`` weights are few enough."""
    lengths = torch.unique_consecutive(label[order], return_counts=True)[1].tolist()
    for piece in order.split(lengths):
        yield from piece.split(_at_once(count))


class _Mean:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0.0

    def add(self, values: Tensor, weight: float = 1.0) -> None:
        self.total += weight * values.double().sum().item()
        self.count += weight * len(values)

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else math.nan
