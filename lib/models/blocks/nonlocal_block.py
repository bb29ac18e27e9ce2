"""The non-local block (Wang et al., "Non-local Neural Networks", CVPR 2018), its whitened and its unary relatives."""

import math
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.base.errors import UserError
from lib.models.blocks.attention import attend, attention_rows
from lib.models.blocks.terms import AttentionTerms, Cells, Term, added, unary_term
from lib.models.standard import by_blocks, is_standard

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOLS = {1: (nn.MaxPool1d, 2), 2: (nn.MaxPool2d, 2), 3: (nn.MaxPool3d, (1, 2, 2))}

MODES = ("embedded_gaussian", "gaussian", "dot_product", "concatenation", "none")

# What a mean is taken over, as dimensions of B x C x N.
WHITENED_DIMENSIONS = {"instance": (2,), "position": (1,), "layer": (1, 2), "per_channel": (0, 2), "batch": (0, 1, 2)}
BATCH_NORMS = ("batch_norm", "batch_norm_affine")

# Entries of the values that the concatenation mode sums at a time.
SUMMED_ENTRIES = 1 << 19

Whitening = Literal["instance", "position", "layer", "per_channel", "batch", "batch_norm", "batch_norm_affine"]


def whiten(x: Tensor, over: str, *, variance: bool = False, eps: float = 1e-5) -> Tensor:
    """Subtract the mean and, with ``variance``, divide by sqrt(variance + eps), the unbiased one.

    Args:
        x: B x C x N.
        over: ``instance``: positions, for each channel; ``position``: channels, for each position; ``layer``: channels
            and positions; ``per_channel``: positions of the whole batch, for each channel; ``batch``: everything.

    Returns:
        B x C x N of ``x``'s type. The arithmetic is at least float32: a mean rounded to bfloat16 would not be the mean.
    """
    dims = WHITENED_DIMENSIONS[over]
    wide = torch.promote_types(x.dtype, torch.float32)
    centred = x - x.mean(dims, keepdim=True, dtype=wide)
    if variance:
        centred = centred * (x.to(wide).var(dims, keepdim=True) + eps).rsqrt()
    return centred.to(x.dtype)


def aggregate_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``query @ key^T @ value / M`` without the N x M matrix: multiplied from the right, in O((N + M) D E).

    Args:
        query: B x N x D.
        key: B x M x D.
        value: B x M x E.

    Returns:
        B x N x E.
    """
    # Dividing within the product costs no rounding and keeps the sum over M positions within float16's range.
    context = torch.baddbmm(value.new_zeros(1), key.mT, value, beta=0, alpha=1 / key.shape[1])
    return query @ context


def aggregate_sums(left: Tensor, right: Tensor, value: Tensor) -> Tensor:
    """``relu(left_i + right_j) @ value / M`` without the N x M matrix, in O((N + M)(log M + E)).

    The keys that count for query i are those with right_j > -left_i. In the order of falling right_j they come first,
    so that their sums of value_j and of right_j value_j are two entries of running sums.

    Args:
        left: B x N.
        right: B x M.
        value: B x M x E.

    Returns:
        B x N x E of ``value``'s type; the arithmetic is at least float32.
    """
    if is_standard():
        # A sort and a search for each image are no single operators elsewhere.
        keys = right.shape[1]
        return by_blocks(left[:, :, None], keys, lambda rows: F.relu(rows + right[:, None]) @ (value / keys))
    left, right = _widen(left), _widen(right)
    # The running sums would otherwise carry, and lose digits to, a bias common to all keys.
    common = right.detach().mean(dim=1, keepdim=True)
    left, (right, order) = left + common, (right - common).sort(dim=1, descending=True)
    counted = torch.searchsorted(-right, left)
    # B x M x E -> E x M: sums run along the memory. A few channels at a time, so that what is in between stays small.
    parts = [
        _sum_counted(part, *image)
        for values, *image in zip(value.mT, left, right, order, counted, strict=True)
        for part in values.split(max(1, SUMMED_ENTRIES // values.shape[1]))
    ]
    return torch.cat(parts).unflatten(0, (-1, value.shape[2])).mT


def _sum_counted(value: Tensor, left: Tensor, right: Tensor, order: Tensor, counted: Tensor) -> Tensor:
    """One image's sums: E x M, N and falling M; ``order``, M, is the values' and ``counted``, N, the queries' keys."""
    ordered = _widen(value).index_select(1, order)
    values, weighted = (
        F.pad(summands.cumsum(dim=1), (1, 0)).index_select(1, counted) for summands in (ordered, right * ordered)
    )
    return ((left * values).add_(weighted) / len(right)).to(value.dtype)


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class NonLocal(nn.Module):
    """Adds to every position a mixture of the values of all positions.

    With q, k and v the projections of positions i and of the M positions j, the block is (the paper's equation 6)

        z_i = x_i + output(gamma * sum_j f_ij v_j + unary term),

    where output is a 1x1 convolution or nothing, and f one of the paper's affinities (its equations 2 to 5):

        embedded_gaussian    softmax_j(s q_i^T k_j),  s = 1 / (temperature * sqrt(embedding))
        gaussian             the same with q = k = x (the root is that of channels)
        dot_product          q_i^T k_j / M
        concatenation        relu(w_q^T q_i + w_k^T k_j) / M
        none                 no pairwise term at all

    The unary term, added where wanted, is the same for every i: sum_j softmax_j(u_j) v_j with u = mask(x) or
    u = mean(q)^T k (Yin et al., "Disentangled Non-Local Neural Networks", ECCV 2020, sections 4 and 3).

    No mode holds the N x M matrix of affinities: softmax goes through ``attend``, the dot product is multiplied from
    the right (``aggregate_products``), the concatenation sorted (``aggregate_sums``); the last two are exact and linear
    in the positions, up to the logarithm of the sort. A mean of the keys over positions adds the same number to a whole
    row of affinities and cancels in the softmax, but is subtracted all the same: smaller affinities lose less when they
    are rounded to bfloat16.

    Args:
        channels: of the input and the output.
        embedding: channels of query and key; default channels // 2.
        dimensions: of the input: 1 (B x C x L), 2 (B x C x H x W) or 3 (B x C x T x H x W).
        mode: the affinity f; see above.
        scale: whether the softmax's affinities are divided by the square root above.
        temperature: what the softmax's affinities are divided by, above 0.
        learned_temperature: whether 1 / temperature is softplus of a parameter, which starts at the given one.
        subsample: whether keys, values and mask are max-pooled by 2 (by 1, 2, 2 in 3-D): not (``none``), already in
            the ``input`` of their projections, or after the ``projection``.
        whitening: what is done to query and key, in this order. Means subtracted: each channel's over the positions
            (``instance``) or those of the whole batch (``per_channel``), each position's over the channels
            (``position``), the one over both (``layer``) or over everything (``batch``). Or batch norm,
            ``batch_norm`` without and ``batch_norm_affine`` with weight and bias.
        whiten_variance: whether whitening by means also divides by the standard deviation.
        query_mean: whether there is the unary term of the mean that whitening last took from the query,
            u = mean(q)^T k.
        mask: whether there is the unary term of a 1x1 convolution, u = mask(x).
        gain: whether the pairwise term has the factor gamma, learned, 0 at the start.
        output_conv: whether values have ``embedding`` channels and a 1x1 convolution leads back to ``channels``.
        output_bias: whether the output convolution has a bias.
        output_norm: whether what is added to the input passes a batch norm first.
        zero_init: whether a block without gain starts with its output's norm, or else convolution, at 0.
        init_scale: factor of the standard deviation, 0.01, with which weights of query and key are drawn.
        eps: added to the variance when whitening.

    Raises:
        UserError: if an argument is outside its range or contradicts another.
    """

    def __init__(
        self,
        channels: int,
        *,
        embedding: int | None = None,
        dimensions: Literal[1, 2, 3] = 2,
        mode: Literal["embedded_gaussian", "gaussian", "dot_product", "concatenation", "none"] = "embedded_gaussian",
        scale: bool = True,
        temperature: float = 1.0,
        learned_temperature: bool = False,
        subsample: Literal["none", "input", "projection"] = "none",
        whitening: Sequence[Whitening] = (),
        whiten_variance: bool = False,
        query_mean: bool = False,
        mask: bool = False,
        gain: bool = True,
        output_conv: bool = False,
        output_bias: bool = False,
        output_norm: bool = False,
        zero_init: bool = True,
        init_scale: float = 1.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        _check_terms(mode, mask=mask, query_mean=query_mean, subsample=subsample, whitening=whitening)
        if temperature <= 0:
            raise UserError(f"temperature is {temperature}: it must be above 0")
        self.mode = mode
        self.whitening, self.whiten_variance, self.eps = tuple(whitening), whiten_variance, eps
        self.query_mean = query_mean
        embedding = embedding or max(channels // 2, 1)
        conv = CONVS[dimensions]
        width = channels if mode == "gaussian" else embedding
        self.scale = (width**-0.5 if scale else 1.0) / (1.0 if learned_temperature else temperature)
        self.sharpness = _make_sharpness(temperature) if learned_temperature else None
        pool, factor = POOLS[dimensions]
        self.pool_input = pool(factor) if subsample == "input" else nn.Identity()
        self.pool_projection = pool(factor) if subsample == "projection" else nn.Identity()
        embedded = mode not in ("gaussian", "none")
        self.value = conv(channels, embedding if output_conv else channels, 1, bias=output_conv)
        self.query = conv(channels, embedding, 1) if embedded else None
        self.key = conv(channels, embedding, 1) if embedded else None
        self.concatenated = nn.Conv2d(2 * embedding, 1, 1, bias=False) if mode == "concatenation" else None
        self.mask = conv(channels, 1, 1) if mask else None
        self.output = conv(embedding, channels, 1, bias=output_bias) if output_conv else None
        self.output_norm = NORMS[dimensions](channels) if output_norm else None
        self.gamma = nn.Parameter(torch.zeros(1)) if gain else None
        norms = {kind: kind == "batch_norm_affine" for kind in self.whitening if kind in BATCH_NORMS}
        self.query_norms = nn.ModuleDict({kind: nn.BatchNorm1d(width, affine=affine) for kind, affine in norms.items()})
        self.key_norms = nn.ModuleDict({kind: nn.BatchNorm1d(width, affine=affine) for kind, affine in norms.items()})
        self._initialise(init_scale, zero_output=zero_init and not gain)

    def _initialise(self, scale: float, *, zero_output: bool) -> None:
        for projection in (self.query, self.key, self.value, self.mask, self.output):
            if projection is not None:
                nn.init.normal_(projection.weight, std=0.01)
                if projection.bias is not None:
                    nn.init.zeros_(projection.bias)
        if self.query is not None:
            nn.init.normal_(self.query.weight, std=0.01 * scale)
            nn.init.normal_(self.key.weight, std=0.01 * scale)
        if self.concatenated is not None:
            nn.init.kaiming_normal_(self.concatenated.weight, mode="fan_out", nonlinearity="relu")
        last = self.output_norm or self.output
        if zero_output and last is not None:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Takes B x C x (positions of ``dimensions`` dimensions) and returns the same shape."""
        source = self.pool_input(x)
        if self.mode == "none":
            return x + self._project(self._unary(source), x.shape[2:])
        value = self._rows(self.value(source))
        terms = []  # B x N x E or, the same for every position, B x 1 x E
        # The unary terms first: what comes last comes first in backward, and the pairwise term's is the one that needs
        # memory, so that it should not find the others' gradients there.
        if self.mask is not None:
            terms.append(_average(self._rows(self.mask(source)).mT, value))
        query, key, query_mean = self.embed(x, source)
        if query_mean is not None:
            terms.append(_average(query_mean @ key.mT, value))
        pairwise = self._aggregate(query, key, value)
        # the gain in the values' type: one of float32 would widen every tensor that follows under autocast
        terms.append(pairwise if self.gamma is None else pairwise * self.gamma.to(value.dtype))
        return x + self._project(reduce(add, terms), x.shape[2:])

    def affinity_rows(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        """What chosen positions take from all of them, for pictures.

        Args:
            x: as in ``forward``.
            positions: R of the N positions, counted along the rows of the input.

        Returns:
            f_ij as float32 B x R x M; with softmax the rows sum to 1.

        Raises:
            UserError: if the block has no pairwise term.
        """
        if self.mode == "none":
            raise UserError("a block without a pairwise term has no affinities to show")
        query, key, _ = self.embed(x, self.pool_input(x))
        return self._affinities(query[:, positions], key, torch.float32)

    def attention(self, x: Tensor) -> AttentionTerms:
        """The block's attention for ``x``; where keys are pooled, each one's weight lies evenly on its cell."""
        source, count = self.pool_input(x), x[0, 0].numel()
        pooled = [pool for pool in (self.pool_input, self.pool_projection) if not isinstance(pool, nn.Identity)]
        cells = Cells(tuple(x.shape[2:]), _sides(pooled[0].kernel_size, x.dim() - 2)) if pooled else None
        weights, terms = [], {}
        if self.mask is not None:
            weights.append(_widen(self._rows(self.mask(source)).mT).softmax(dim=2))
        if self.mode != "none":
            query, key, query_mean = self.embed(x, source)
            if query_mean is not None:
                weights.append(_widen(query_mean @ key.mT).softmax(dim=2))
            terms["pairwise"] = self._pairwise(query, key, cells)
        if weights:
            terms["unary"] = unary_term(sum(weights), count, cells)
        gamma = None if self.gamma is None or self.mode == "none" else self.gamma.item()
        factors = {"pairwise": 1.0 if gamma is None else gamma, "unary": 1.0}
        applied = added([(factors[name], term) for name, term in terms.items()])
        return AttentionTerms(terms | {"applied": applied}, tuple(x.shape[2:]), tuple(x.shape[2:]), gamma)

    def _pairwise(self, query: Tensor, key: Tensor, cells: Cells | None) -> Term:
        wide = torch.promote_types(query.dtype, torch.float32)

        def rows(positions: Sequence[int]) -> Tensor:
            found = self._affinities(query[:, positions], key, wide)
            return found if cells is None else cells.spread(found)

        def apply(values: Tensor) -> Tensor:
            return self._aggregate(query, key, values if cells is None else cells.gather(values))

        return Term(rows, apply, signed=self.mode == "dot_product")

    def _affinities(self, query: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
        """f_ij of R queries: B x R x D and B x M x D to B x R x M of ``dtype``."""
        if self.mode == "dot_product":
            return query.to(dtype) @ key.to(dtype).mT / key.shape[1]
        if self.mode == "concatenation":
            left, right = self._scores(query, key)
            return F.relu(left.to(dtype)[:, :, None] + right.to(dtype)[:, None]) / key.shape[1]
        return attention_rows(self._sharpen(query).to(dtype), key.to(dtype), scale=self.scale)

    def embed(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Whitened queries B x N x D of ``x``, keys B x M x D of ``source``, and with ``query_mean`` it, B x 1 x D."""
        if self.query is None:
            query, key = x, self.pool_projection(source)
        else:
            query, key = self.query(x), self.pool_projection(self.key(source))
        query, key, query_mean = query.flatten(2), key.flatten(2), None
        for kind in self.whitening:
            if kind in BATCH_NORMS:
                query, key = self.query_norms[kind](query), self.key_norms[kind](key)
                continue
            if self.query_mean:
                query_mean = _widen(query).mean(WHITENED_DIMENSIONS[kind], keepdim=True).to(query.dtype)
            query = whiten(query, kind, variance=self.whiten_variance, eps=self.eps)
            key = whiten(key, kind, variance=self.whiten_variance, eps=self.eps)
        if query_mean is not None:
            query_mean = query_mean.expand(*query.shape[:2], 1).mT
        return query.mT, key.mT, query_mean

    def _unary(self, source: Tensor) -> Tensor:
        """The mask's term where there is no other: B x 1 x E."""
        # The weights sum to 1, so that the average's projection is the projections' average.
        average = _average(self.mask(source).flatten(2), source.flatten(2).mT)
        return self.value(average.mT.unflatten(2, (1,) * (source.dim() - 2))).flatten(2).mT

    def _rows(self, projected: Tensor) -> Tensor:
        """B x E x ... -> B x M x E."""
        return self.pool_projection(projected).flatten(2).mT

    def _aggregate(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """sum_j f_ij v_j: B x N x E."""
        if self.mode == "dot_product":
            return aggregate_products(query, key, value)
        if self.mode == "concatenation":
            return aggregate_sums(*self._scores(query, key), value)
        # Under autocast the Gaussian mode's queries and keys, which no projection made, are wider than the values.
        return attend(self._sharpen(query).to(value.dtype), key.to(value.dtype), value, scale=self.scale)

    def _sharpen(self, query: Tensor) -> Tensor:
        return query if self.sharpness is None else query * F.softplus(self.sharpness).to(query.dtype)

    def _scores(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """The concatenation's w_q^T q_i, B x N, and w_k^T k_j, B x M."""
        # Matrices of one column: a transpose before a product with a vector is misread by ONNX Runtime 1.31.
        weight_query, weight_key = self.concatenated.weight.view(-1, 1).chunk(2)
        return (query @ weight_query).squeeze(2), (key @ weight_key).squeeze(2)

    def _project(self, term: Tensor, positions: torch.Size) -> Tensor:
        """B x N x E, N being 1 where there are only unary terms, to what is added to x."""
        shape = positions if term.shape[1] > 1 else (1,) * len(positions)
        term = term.mT.unflatten(2, shape)
        if self.output is not None:
            term = self.output(term)
        if self.output_norm is not None:
            # In training a batch norm refuses a single value per channel, though many equal ones give the same.
            term = self.output_norm(term.expand(-1, -1, *positions) if self.training and len(term) == 1 else term)
        return term


def _average(logits: Tensor, value: Tensor) -> Tensor:
    """The values' mean weighted by the softmax of B x 1 x M logits: B x M x E -> B x 1 x E."""
    return logits.softmax(dim=2).to(value.dtype) @ value


def _sides(kernel: int | tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    return (kernel,) * dimensions if isinstance(kernel, int) else kernel


def _make_sharpness(temperature: float) -> nn.Parameter:
    """The parameter whose softplus is 1 / temperature."""
    inverse = 1 / temperature
    return nn.Parameter(torch.tensor([inverse + math.log(-math.expm1(-inverse))]))


def _check_terms(mode: str, *, mask: bool, query_mean: bool, subsample: str, whitening: Sequence[str]) -> None:
    """Raise a UserError if the terms are unknown, none, or contradict one another."""
    if mode not in MODES:
        raise UserError(f"mode is {mode!r}: choose one of {', '.join(MODES)}")
    known = (*WHITENED_DIMENSIONS, *BATCH_NORMS)
    for kind in whitening:
        if kind not in known:
            raise UserError(f"whitening is {kind!r}: choose none, {', '.join(known)}")
    if mode == "none" and (query_mean or not mask or subsample == "projection"):
        raise UserError("a block without a pairwise term needs a mask, has no query and can subsample its input only")
    means = [kind for kind in whitening if kind in WHITENED_DIMENSIONS]
    if query_mean and (not means or means[-1] == "position"):
        raise UserError("query_mean needs a whitening that takes the same mean from every query, such as instance")
