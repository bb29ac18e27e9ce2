"""Non-local blocks as graph filters (Zhu et al., "Unifying Nonlocal Blocks for Neural Networks", ICCV 2021)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lib.base.errors import UserError
from lib.models.blocks.affinities import AFFINITIES, Affinity
from lib.models.blocks.filters import Transposed, nearest_filter
from lib.models.blocks.linear import LinearAffinity
from lib.models.blocks.nonlocal_block import CONVS, NORMS
from lib.models.blocks.terms import AttentionTerms, Term, added, one_hot, unary_term, widen
from lib.models.standard import inverse, is_standard


class Unit(nn.Module):
    """Base of the units: ``x + relu(norm(skip(g) + output(filter(g))))`` with g = value(x).

    Args:
        channels: C, of the input and the output.
        width: E, channels of g.
        dimensions: of the input.
        relu: whether there is the ReLU.
        responses: signals of E channels that ``filter`` returns side by side.
        skip: whether there is the skip term.
    """

    def __init__(
        self, channels: int, width: int, *, dimensions: int, relu: bool, responses: int = 1, skip: bool = False
    ) -> None:
        super().__init__()
        conv = CONVS[dimensions]
        self.responses = responses
        self.value = conv(channels, width, 1, bias=False)
        self.skip = conv(width, channels, 1, bias=False) if skip else None
        self.output = conv(responses * width, channels, 1, bias=False)
        self.norm = NORMS[dimensions](channels)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor, affinity: Affinity) -> Tensor:
        """Takes B x C x (positions) and returns the same shape."""
        value = self.value(x)
        context = self.output(self.filter(x, value, affinity))
        if self.skip is not None:
            context += self.skip(value)
        return x + self.relu(self.norm(context))

    def responses_to(self, signal: Tensor, affinity: Affinity) -> list[Tensor]:
        """The polynomials, or rational functions, of A that the unit mixes, of one signal B x E x N: as large each."""
        filtered = list(self.filter(signal, signal, affinity).chunk(self.responses, dim=1))
        return filtered if self.skip is None else [signal, *filtered]

    def mixtures(self) -> list[Tensor]:
        """With which matrix of channels, C x E, the unit mixes each of these."""
        matrices = list(self.output.weight.flatten(1).chunk(self.responses, dim=1))
        return matrices if self.skip is None else [self.skip.weight.flatten(1), *matrices]


class NonLocalUnit(Unit):
    """``A g``: the non-local block; with the affinity ``relu`` the double attention block."""

    def filter(self, x: Tensor, value: Tensor, affinity: Affinity) -> Tensor:
        return affinity(value)


class LaplacianUnit(Unit):
    """``(I - A) g``: the non-local stage (Tao et al., "Nonlocal Neural Networks, Nonlocal Diffusion and Nonlocal
    Modeling", NeurIPS 2018)."""

    def filter(self, x: Tensor, value: Tensor, affinity: Affinity) -> Tensor:
        return value - affinity(value)


class DisentangledUnit(Unit):
    """``A g`` plus a unary term, the mean of g under ``softmax(mask(x))``, the same for every position."""

    def __init__(self, channels: int, width: int, *, dimensions: int, relu: bool) -> None:
        super().__init__(channels, width, dimensions=dimensions, relu=relu)
        self.mask = CONVS[dimensions](channels, 1, 1, bias=False)

    def responses_to(self, signal: Tensor, affinity: Affinity) -> list[Tensor]:
        return [affinity(signal)]

    def filter(self, x: Tensor, value: Tensor, affinity: Affinity) -> Tensor:
        # B x 1 x N; B x E x 1
        weights = self.mask(x).flatten(2).softmax(dim=2).to(value.dtype)
        unary = value.flatten(2) @ weights.mT
        return affinity(value) + unary.unflatten(2, (1,) * (x.dim() - 2))


class SquaredLaplacianUnit(Unit):
    """``W_1 g + W_2 (W_h g + (I - A)^2 g)``: what the SNL authors' code calls a Cayley unit."""

    def __init__(self, channels: int, width: int, *, dimensions: int, relu: bool) -> None:
        super().__init__(channels, width, dimensions=dimensions, relu=relu, skip=True)
        self.mix = CONVS[dimensions](width, width, 1, bias=False)

    def filter(self, x: Tensor, value: Tensor, affinity: Affinity) -> Tensor:
        once = value - affinity(value)
        return self.mix(value).add_(once).sub_(affinity(once))

    def responses_to(self, signal: Tensor, affinity: Affinity) -> list[Tensor]:
        once = signal - affinity(signal)
        return [signal, once - affinity(once)]

    def mixtures(self) -> list[Tensor]:
        skip, output, mix = (layer.weight.flatten(1) for layer in (self.skip, self.output, self.mix))
        return [skip + output @ mix, output]


class ChebyshevUnit(Unit):
    """``sum_k W_k T_k(A) g``, k = 0..order, with T_k(A) = 2 A T_{k-1}(A) - T_{k-2}(A), T_0 = I, T_1(A) = A.

    The paper's Chebyshev filter; of order 1 it is its spectral non-local operator, ``W_0 g + W_1 A g``. With ``of`` as
    ``laplacian``, A is replaced by the Laplacian with its spectrum shifted to [-1, 1], ``L - I = -A``.
    """

    def __init__(
        self, channels: int, width: int, *, dimensions: int, relu: bool, order: int = 1, of: str = "affinity"
    ) -> None:
        super().__init__(channels, width, dimensions=dimensions, relu=relu, responses=order, skip=True)
        self.order, self.of_laplacian = order, of == "laplacian"

    def filter(self, x: Tensor, value: Tensor, affinity: Affinity) -> Tensor:
        terms = [value, affinity(value)]
        while len(terms) <= self.order:
            terms.append(torch.sub(affinity(terms[-1]), terms[-2], alpha=0.5).mul_(2))
        if self.of_laplacian:
            terms[1::2] = [-term for term in terms[1::2]]  # T_k(-A) = (-1)^k T_k(A)
        # T_0 g passes through ``skip``
        return _side_by_side(terms[1:])


class ArmaUnit(Unit):
    """``sum_k W_k y_k``, k = 1..order, with y_k the ``iterations``-th step of y <- P_k A y + Q_k g from y = g.

    Parallel first-order recursions (Bianchi et al., "Graph Neural Networks with Convolutional ARMA Filters",
    without its inner non-linearity). Where P_k contracts they approach the rational filter (I - P_k A)^-1 Q_k g.
    """

    def __init__(
        self, channels: int, width: int, *, dimensions: int, relu: bool, order: int = 1, iterations: int = 2
    ) -> None:
        super().__init__(channels, width, dimensions=dimensions, relu=relu, responses=order)
        conv = CONVS[dimensions]
        self.order, self.iterations = order, iterations
        self.recursion = conv(order * width, order * width, 1, groups=order, bias=False)
        self.drive = conv(width, order * width, 1, bias=False)

    def filter(self, x: Tensor, value: Tensor, affinity: Affinity) -> Tensor:
        drive = self.drive(value)
        state = _side_by_side([value] * self.order)
        for _ in range(self.iterations):
            state = self.recursion(affinity(state)).add_(drive)
        return state

    def responses_to(self, signal: Tensor, affinity: Affinity) -> list[Tensor]:
        powers = [signal]
        for _ in range(self.iterations):
            powers.append(affinity(powers[-1]))
        return powers

    def mixtures(self) -> list[Tensor]:
        # Of A^t: sum_k W_k P_k^t Q_k, and without Q_k for the last one
        recursion, drive = (layer.weight.flatten(1).chunk(self.order) for layer in (self.recursion, self.drive))
        left, found = self.output.weight.flatten(1).chunk(self.order, dim=1), []
        for _ in range(self.iterations):
            found.append(sum(a @ b for a, b in zip(left, drive, strict=True)))
            left = [a @ b for a, b in zip(left, recursion, strict=True)]
        return [*found, sum(left)]


class CayleyUnit(Unit):
    """``W_0 g + sum_j (V_j Re C^j g + W_j Im C^j g)``, j = 1..order, with C = (hL - iI)(hL + iI)^-1 and L = I - A.

    Cayley polynomials (Levie et al., "CayleyNets": its c_j are V_j / 2 - i W_j / 2), with h > 0 learned. The
    inverse is exact: A = left^T right has rank R, and by Woodbury's identity, with s = h + i and W = right left^T,

        C = (1 - 2i / s) I - (2ih / s) left^T (s I - h W)^-1 right,

    so that C^j g = a_j g + left^T S_j, where only R x R systems are solved, of eigenvalues of at least 1 in modulus.
    """

    def __init__(self, channels: int, width: int, *, dimensions: int, relu: bool, order: int = 1) -> None:
        super().__init__(channels, width, dimensions=dimensions, relu=relu, responses=2 * order, skip=True)
        self.order = order
        self.log_zoom = nn.Parameter(torch.zeros(1))

    def filter(self, x: Tensor, value: Tensor, affinity: LinearAffinity) -> Tensor:
        overlap = affinity.overlap()
        reduced = affinity.reduce(value.flatten(2)).to(overlap.dtype)
        zoom = self.log_zoom.exp()
        if is_standard():
            return self._filter_by_inverse(value, affinity, overlap, reduced, zoom)
        shift = torch.complex(zoom, torch.ones_like(zoom))
        system = shift * torch.eye(overlap.shape[1], device=x.device, dtype=overlap.dtype) - zoom * overlap
        factors = torch.linalg.lu_factor(system)
        ratio, gain = shift.conj() / shift, -2j * zoom / shift
        # C^j g = own * g + expand(shared)
        own, shared = torch.ones_like(shift), torch.zeros_like(reduced, dtype=shift.dtype)
        parts = []
        for _ in range(self.order):
            moved = own * reduced + shared @ overlap.to(shift.dtype)
            shared = ratio * shared + gain * torch.linalg.lu_solve(*factors, moved, left=False)
            own = ratio * own
            for factor, coefficients in ((own.real, shared.real), (own.imag, shared.imag)):
                spread = affinity.expand(coefficients.to(value.dtype)).reshape(value.shape)
                parts.append(spread.addcmul_(factor.to(value.dtype), value))
        return _side_by_side(parts)

    def _filter_by_inverse(
        self, value: Tensor, affinity: LinearAffinity, overlap: Tensor, reduced: Tensor, zoom: Tensor
    ) -> Tensor:
        """The same in real numbers: with K = h (I - W), the system's inverse is (K - iI) (K^2 + I)^-1."""
        identity = torch.eye(overlap.shape[1], device=overlap.device, dtype=overlap.dtype)
        system = zoom * (identity - overlap)
        # B x R x R, real and imaginary part
        imaginary = -inverse(system @ system + identity).to(overlap.dtype)
        inverted = -(system @ imaginary), imaginary
        norm = zoom**2 + 1
        ratio = (zoom**2 - 1) / norm, -2 * zoom / norm
        gain = -2 * zoom / norm, -2 * zoom**2 / norm
        own = torch.ones_like(zoom), torch.zeros_like(zoom)
        shared = torch.zeros_like(reduced), torch.zeros_like(reduced)
        parts = []
        for _ in range(self.order):
            moved = [factor * reduced + part @ overlap for factor, part in zip(own, shared, strict=True)]
            solved = moved[0] @ inverted[0] - moved[1] @ inverted[1], moved[0] @ inverted[1] + moved[1] @ inverted[0]
            kept, gained = _times(ratio, shared), _times(gain, solved)
            shared = kept[0] + gained[0], kept[1] + gained[1]
            own = _times(ratio, own)
            for factor, coefficients in zip(own, shared, strict=True):
                spread = affinity.expand(coefficients.to(value.dtype)).reshape(value.shape)
                parts.append(spread + factor.to(value.dtype) * value)
        return _side_by_side(parts)


def _times(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The product of two complex numbers that are given as real and imaginary part."""
    return left[0] * right[0] - left[1] * right[1], left[0] * right[1] + left[1] * right[0]


def _side_by_side(signals: list[Tensor]) -> Tensor:
    """B x E x (positions) each -> B x (signals E) x (positions), without copying a single one."""
    return signals[0] if len(signals) == 1 else torch.cat(signals, dim=1)


UNITS = {
    "chebyshev": ChebyshevUnit,
    "arma": ArmaUnit,
    "cayley": CayleyUnit,
    "nonlocal": NonLocalUnit,
    "laplacian": LaplacianUnit,
    "disentangled": DisentangledUnit,
    "squared_laplacian": SquaredLaplacianUnit,
}


class SpectralStage(nn.Module):
    """Units that filter their input on one graph, whose nodes are the positions and whose affinity A they share.

    A comes from the stage's input through ``query`` and ``key``. Everything but the softmax affinity is applied as a
    linear operator, so that time and memory grow linearly with the positions; see ``LinearAffinity``. The defaults are
    the paper's spectral non-local block (SNL); its relatives are combinations of options:

        NL: unit nonlocal, affinity softmax          DNL: unit disentangled, affinity softmax
        NS: unit laplacian, affinity softmax         A2: unit nonlocal, affinity relu

    Args:
        channels: of the input and the output.
        unit: the filter of g = value(x): ``nonlocal``: A g; ``laplacian``: (I - A) g; ``disentangled``: A g and a unary
            term; ``squared_laplacian``: W_1 g + W_2 (W_h g + (I - A)^2 g); ``chebyshev``: sum_k W_k T_k(A) g, with
            polynomials T_k; ``cayley``: polynomials of (hL - iI)(hL + iI)^-1 with L = I - A; ``arma``: steps towards
            rational functions of A. Each is written out in its class.
        order: degree of chebyshev and cayley, number of arma's recursions; at least 1.
        iterations: steps of arma; at least 1.
        chebyshev_of: whether Chebyshev polynomials are of the affinity or of the shifted Laplacian.
        units: how many units follow each other; at least 1.
        embedding: channels of query and key; default channels // 2.
        width: channels of the filtered signals; default ``embedding``.
        affinity: ``normalised``: D^-1/2 M D^-1/2 with M_ij = relu(q_i)^T relu(k_j) and D its degrees; ``relu``: M;
            ``softmax``: softmax_j(q_i^T k_j).
        symmetric: whether M, or the softmax's argument, is first averaged with its transpose. The SNL authors' NL, NS,
            DNL and A2 do without.
        relu: whether units end with a ReLU, before the input is added.
        dimensions: of the input: 1 (B x C x L), 2 (B x C x H x W) or 3 (B x C x T x H x W).

    Raises:
        UserError: if options are out of range or do not go together.
    """

    def __init__(
        self,
        channels: int,
        *,
        unit: Literal[
            "chebyshev", "arma", "cayley", "nonlocal", "laplacian", "disentangled", "squared_laplacian"
        ] = "chebyshev",
        order: int = 1,
        iterations: int = 2,
        chebyshev_of: Literal["affinity", "laplacian"] = "affinity",
        units: int = 1,
        embedding: int | None = None,
        width: int | None = None,
        affinity: Literal["normalised", "softmax", "relu"] = "normalised",
        symmetric: bool = True,
        relu: bool = True,
        dimensions: Literal[1, 2, 3] = 2,
    ) -> None:
        super().__init__()
        if unit not in UNITS or affinity not in AFFINITIES:
            raise UserError(
                f"unit is {unit!r}, affinity {affinity!r}: choose {', '.join(UNITS)}; {', '.join(AFFINITIES)}"
            )
        if min(order, iterations, units) < 1:
            raise UserError("order, iterations and units of a spectral stage are at least 1")
        if unit == "cayley" and (affinity == "softmax" or not symmetric):
            raise UserError(
                "a Cayley filter needs a symmetric affinity, normalised or relu: others may have no inverse"
            )
        options = {
            "chebyshev": {"order": order, "of": chebyshev_of},
            "arma": {"order": order, "iterations": iterations},
            "cayley": {"order": order},
        }
        if order > 1 and unit not in options:
            raise UserError(f"unit {unit} has no order: choose one of {', '.join(options)}")
        embedding = embedding or channels // 2
        conv = CONVS[dimensions]
        self.affinity, self.symmetric = AFFINITIES[affinity], symmetric
        self.query = conv(channels, embedding, 1, bias=False)
        self.key = conv(channels, embedding, 1, bias=False)
        self.units = nn.ModuleList(
            UNITS[unit](channels, width or embedding, dimensions=dimensions, relu=relu, **options.get(unit, {}))
            for _ in range(units)
        )
        self._initialise(conv)

    def _initialise(self, conv: type[nn.Module]) -> None:
        # The norms' gain stays 1: at 0 a ReLU behind it would let no gradient through, ever.
        for module in self.modules():
            if isinstance(module, conv):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for unit in self.units:
            if isinstance(unit, ArmaUnit):
                nn.init.orthogonal_(unit.recursion.weight, gain=0.5)  # a contraction

    def forward(self, x: Tensor) -> Tensor:
        """Takes B x C x (positions of ``dimensions`` dimensions) and returns the same shape."""
        affinity = self._build_affinity(x)
        for unit in self.units:
            x = unit(x, affinity)
        return x

    def affinity_rows(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        """What chosen positions take from all of them, for pictures: rows of A.

        Args:
            x: as in ``forward``.
            positions: R of the N positions, counted along the rows of the input.

        Returns:
            A_ij as float32 B x R x N.
        """
        return self._build_affinity(x).rows(positions)

    def attention(self, x: Tensor) -> AttentionTerms:
        """The stage's attention for ``x``: ``pairwise`` is A, ``applied`` what the filter of its first unit amounts to.

        That is the one filter sum_k c_k P_k(A) that comes nearest to the unit's, which has a matrix of channels for
        each P_k(A): see ``nearest_filter``. The skip term is a part of it.
        """
        size, affinity, unit = tuple(x.shape[2:]), self._build_affinity(x), self.units[0]
        coefficients, share = nearest_filter(unit.mixtures())

        def filtered(signal: Tensor, of: Affinity | Transposed) -> Tensor:
            parts = unit.responses_to(signal, of)
            return sum(number * part for number, part in zip(coefficients, parts, strict=True))

        def rows(positions: Sequence[int]) -> Tensor:
            return filtered(one_hot(positions, widen(x), x[0, 0].numel()), affinity.transposed())

        terms = {"pairwise": Term(affinity.wide_rows, lambda values: affinity(values.mT).mT)}
        applied = Term(rows, lambda values: filtered(values.mT, affinity).mT, signed=True)
        if isinstance(unit, DisentangledUnit):
            weights = widen(unit.mask(x).flatten(2)).softmax(dim=2)
            terms["unary"] = unary_term(weights, weights.shape[2])
            applied = added([(1.0, applied), (1.0, terms["unary"])])
        terms["applied"] = applied
        note = "" if len(coefficients) == 1 else f"one filter for all channels, {100 * share:.0f} % of the unit's"
        return AttentionTerms(terms, size, size, note=note)

    def _build_affinity(self, x: Tensor) -> Affinity:
        return self.affinity(self.query(x), self.key(x), symmetric=self.symmetric)
