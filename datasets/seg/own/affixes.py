"""What the names of images and their labels have in common, seen from the names alone.

An image ``aachen_1_leftImg8bit`` and its label ``aachen_1_gtFine_labelIds`` share a key, ``aachen_1``; what stands
before and after it is an affix, the same for all images, and the same for all labels.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lib.base.errors import UserError

IMAGE_ENDINGS = ("_leftImg8bit", "_image", "_img", "_rgb", "_sat", "-image", "-img")
LABEL_ENDINGS = (
    "_gtFine_labelIds",
    "_gtCoarse_labelIds",
    "_labelIds",
    "_labelTrainIds",
    "_groundtruth",
    "_segmentation",
    "_annotation",
    "_labels",
    "_label",
    "_masks",
    "_mask",
    "_target",
    "_annot",
    "_gt",
    "_seg",
    "_lbl",
    "_L",
)
PREFERRED = ("labelids", "labeltrainids", "label", "mask", "gt", "seg", "annot", "target", "lbl")
"""Words in affixes of labels; of several labels of one image the earlier word is taken."""
UNWANTED = ("color", "colour", "instance", "vis", "overlay", "preview", "edge", "depth")
LOOKED_AT = 200
"""Labels whose names are searched for keys; the affixes found are then tried on all."""
STEM = "{stem}"


@dataclass(frozen=True)
class Affix:
    """What stands before and after the key."""

    before: str = ""
    after: str = ""

    def key(self, stem: str) -> str | None:
        """What lies between, or None of a stem without the affix."""
        if not (stem.startswith(self.before) and stem.endswith(self.after)):
            return None
        inner = len(stem) - len(self.before) - len(self.after)
        return stem[len(self.before) : len(self.before) + inner] if inner > 0 else None

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def __str__(self) -> str:
        return f"{self.before}{STEM}{self.after}"


KNOWN = [
    *(Affix(after=end) for end in LABEL_ENDINGS),
    *(Affix(before=f"{end.lstrip('_')}_") for end in LABEL_ENDINGS if end.islower()),
    *(Affix(after=f"-{end.lstrip('_')}") for end in LABEL_ENDINGS if end.islower()),
]
"""Affixes of labels that are taken on sight."""


def parse_pattern(text: str) -> tuple[Affix | None, Affix]:
    """The affixes of "{stem}_mask", of labels alone, or of "{stem}_leftImg8bit={stem}_mask", of images and labels."""
    parts = text.split("=")
    if len(parts) > 2 or any(part.count(STEM) != 1 for part in parts):
        raise UserError(
            f"--pattern {text} is none: write the label's name with {STEM} for what it shares with the image's, "
            f"such as '{STEM}_mask', or both as '{STEM}_leftImg8bit={STEM}_gtFine_labelIds'"
        )
    affixes = [Affix(*re.sub(r"\.(png|jpe?g|tiff?|bmp|webp|npy)$", "", part).split(STEM)) for part in parts]
    return (affixes[0] if len(affixes) == 2 else None), affixes[-1]


def infer(images: Sequence[str], labels: Sequence[str]) -> tuple[Affix, Affix, int]:
    """The affixes of images and of labels that pair most of the stems, and how many keys both have."""
    best = (-1,), Affix(), Affix()
    for image_affix in _image_affixes(images):
        keys = {key for stem in images if (key := image_affix.key(stem))}
        for label_affix in _label_affixes(keys, labels):
            matched = len(keys & {label_affix.key(stem) for stem in labels})
            score = (matched, _preference(label_affix), -len(image_affix) - len(label_affix))
            if score > best[0]:
                best = score, image_affix, label_affix
    return best[1], best[2], best[0][0]


def is_known(affix: Affix) -> bool:
    """Whether people call labels so."""
    return affix in KNOWN


def looks_like_label(stem: str) -> bool:
    """Whether a file is a label by its name alone."""
    return any(affix.key(stem) for affix in KNOWN)


def _preference(affix: Affix) -> int:
    text = f"{affix.before} {affix.after}".lower()
    if any(word in text for word in UNWANTED):
        return -len(PREFERRED)
    return next((len(PREFERRED) - rank for rank, word in enumerate(PREFERRED) if word in text), 0)


def _image_affixes(stems: Sequence[str]) -> Iterable[Affix]:
    """None, those that people use, and what all stems have in common up to a separator or a number."""
    affixes = {Affix(): None}
    for end in IMAGE_ENDINGS:
        for affix in (Affix(after=end), Affix(before=f"{end[1:]}{end[0]}")):
            if any(affix.key(stem) for stem in stems):
                affixes[affix] = None
    if len(set(stems)) > 1:
        common = _common_start(stems)
        before = re.sub(r"\d+$", "", common), re.sub(r"[^_\-. ]*$", "", common)
        ending = _common_start([stem[::-1] for stem in stems])[::-1]
        after = re.sub(r"^\d+", "", ending), re.sub(r"^[^_\-. ]*", "", ending)
        affixes |= dict.fromkeys(Affix(first, last) for first in (*before, "") for last in (*after, ""))
    return affixes


def _common_start(words: Iterable[str]) -> str:
    first, last = min(words), max(words)  # what the first and the last by order share, all do
    return next((first[:at] for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), first)


def _label_affixes(keys: set[str], stems: Sequence[str]) -> list[Affix]:
    """Affixes that leave a key of some labels, those of most labels first."""
    votes: Counter[Affix] = Counter()
    lengths = {len(key) for key in keys}
    for stem in stems[:: max(1, len(stems) // LOOKED_AT)]:
        for length in lengths:
            for at in range(len(stem) - length + 1):
                if stem[at : at + length] in keys:
                    votes[Affix(stem[:at], stem[at + length :])] += 1
    return [affix for affix, _ in votes.most_common(20)]
