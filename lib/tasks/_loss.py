"""The part of a segmentation's configuration that says what its loss is."""

from dataclasses import dataclass

from lib.config import MOST
from lib.keys import between, entries, key, one_of, or_null, probability

LOSSES = one_of("ohem", "cross_entropy", "focal", "dice", "lovasz")


@dataclass
class LossConfig:
    name: str = key("ohem", LOSSES)
    """Loss of the main output: ``ohem``, ``cross_entropy``, ``focal``, ``dice`` or ``lovasz``; the auxiliary output
    always has cross entropy."""
    extra: dict[str, float] = key({}, entries(LOSSES, between(0, 1_000_000)))
    """Further losses of the main output, of the same names, and their weights, such as ``{lovasz: 1.0}``."""
    mean: str = key("valid", one_of("valid", "labelled", "all"))
    """What ``cross_entropy``, ``ohem``, ``focal`` and the auxiliary loss divide their sums by: ``valid``, the pixels
    that count (with ``ohem`` the hard ones), as in torchcv; ``all``, all pixels, ignored ones too, as in
    mmsegmentation; ``labelled``, those that are not ignored, hard or not, as with its ``avg_non_ignore``. With class
    weights, the last two are the sum of the weights of the pixels that are not ignored."""
    over: str = key("batch", one_of("batch", "process"))
    """Among whose pixels these means are taken and ``ohem`` chooses the hard ones: those of the whole ``batch``,
    however processes share it, or, as published, those of each ``process`` by itself; their losses are averaged. Each
    round of micro-batches has its own; ``dice`` and ``lovasz`` are always those of each process."""
    focal_gamma: float = key(2.0, between(0, 1000))
    """Exponent of the focal loss; 0 makes it cross entropy."""
    focal_alpha: float = key(1.0, between(0, 1_000_000))
    """Factor of the focal loss; torchcv's has 0.25."""
    class_weights: bool = key(False)
    """Whether the weights of the dataset's class table apply; ``dice`` and ``lovasz`` have no use for them."""
    ohem_threshold: float | None = key(0.7, or_null(probability()))
    """Pixels whose true class has a lower probability than this are always kept; ``null``: the ``ohem_min_kept`` pixels
    per image of the largest loss are, and no others."""
    ohem_min_kept: int = key(100_000, between(1, MOST))
    """At least this many pixels per image are kept."""
    aux_weight: float = key(0.4, between(0, 1_000_000))
    """Weight of the auxiliary loss."""
