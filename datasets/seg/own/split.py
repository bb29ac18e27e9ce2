"""Which images are trained on and which judge: by what the user says, or by a division that treats classes fairly."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from datasets.seg.own.facts import Pair, PairFacts
from datasets.seg.own.pairing import read_text
from lib.base.errors import UserError

SHARE = 0.2
"""Of the images that become val where nothing says which."""


def by_lists(pairs: Sequence[Pair], lists: Mapping[str, Path]) -> tuple[list[Pair], list[str], list[str]]:
    """Give pairs the split whose list names them.

    Args:
        pairs: all there are.
        lists: split -> a file with a name a line: of an image, with or without folders and suffix.

    Returns:
        The pairs (train where no list of train is given and no list names them, else left out), sentences, and lines
        of what is wrong.

    Raises:
        UserError: an image stands in two lists, or a list cannot be read or names none of the images.
    """
    place = _places(pairs)
    split_of: dict[Path, str] = {}
    problems = []
    for split, file in lists.items():
        words = [line.strip() for line in read_text(file, f"--{split}-list").splitlines() if line.strip()]
        missing = []
        for word in words:
            # A name may have spaces; and what follows it, as in VOC's lists, is none of ours.
            first = word.split(",")[0].split()[:1]
            found = next((place[name] for name in (word, *first, word.removeprefix("./")) if name in place), None)
            if found is None or len(found) > 1:
                missing.append(word)
                continue
            image = found[0].image
            if split_of.setdefault(image, split) != split:
                raise UserError(f"{word} stands in --{split_of[image]}-list and in --{split}-list: leave it in one")
        if len(missing) == len(words):
            raise UserError(
                f"--{split}-list {file} names none of the images: write a name a line, such as {pairs[0].name}"
            )
        if missing:
            more = f" (nor {len(missing) - 1} others)" if len(missing) > 1 else ""
            problems.append(f"--{split}-list {file}: {missing[0]} is no image with a label, or several{more}")
    rest = "" if "train" in lists else "train"
    chosen = [replace(pair, split=split_of.get(pair.image, rest)) for pair in pairs]
    kept = [pair for pair in chosen if pair.split]
    left_out = len(chosen) - len(kept)
    said = [f"{len(split_of)} images are divided by lists" + (f"; {left_out} in none are left out" if left_out else "")]
    return kept, said, problems


def _places(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """All that a list may call an image."""
    place: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        parts = pair.image.parts
        tails = {"/".join(parts[at:]) for at in range(max(0, len(parts) - 4), len(parts))} | {str(pair.image)}
        stems = {tail[: -len(pair.image.suffix)] for tail in tails}
        for name in tails | stems | {pair.name}:
            place[name].append(pair)
    return place


def divide(facts: Sequence[PairFacts], share: float, values: set[int]) -> set[str]:
    """The names of the images that become val: iterative stratification, the rarest class first.

    After Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data" (2011): of the images that are
    not yet divided, those of the class that fewest of them have go, one by one, to the split that still wants most of
    that class. Then images move until every class of two or more images is in both splits, where that can be. Images of
    equal pixels stay together. Chance is a hash of the names, so the outcome depends on nothing but names and labels.

    Args:
        facts: of the images to divide.
        share: of val, 0..1.
        values: of labels, those that are classes.
    """
    groups: dict[bytes, list[PairFacts]] = defaultdict(list)
    for one in facts:
        groups[one.digest].append(one)
    members = sorted(groups.values(), key=lambda group: min(_chance(one.pair.name) for one in group))
    classes = [
        frozenset(value for one in group for value in one.values.tolist() if value in values) for group in members
    ]
    wanted = round(share * len(members))
    if share and len(members) > 1:
        wanted = min(max(wanted, 1), len(members) - 1)
    if not wanted:
        return set()
    in_val = _stratify(classes, wanted)
    return {one.pair.name for at in in_val for one in members[at]}


def _chance(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _stratify(classes: Sequence[frozenset[int]], wanted: int) -> set[int]:
    """Places of the ``wanted`` or so images that become val, of which ``classes`` says what each shows."""
    share = wanted / len(classes)
    total = Counter(value for shown in classes for value in shown)
    images_of: dict[int, list[int]] = defaultdict(list)
    for at, shown in enumerate(classes):
        for value in shown:
            images_of[value].append(at)
    # What each split still wants: of every class, and of images.
    want = {value: [count * (1 - share), count * share] for value, count in total.items()}
    room = [len(classes) - wanted, wanted]
    left, side = dict(total), [-1] * len(classes)
    while left:
        rarest = min(left, key=lambda value: (left[value], value))
        for at in images_of[rarest]:
            if side[at] < 0:
                chosen = _choose(want[rarest], room)
                side[at] = chosen
                room[chosen] -= 1
                for value in classes[at]:
                    want[value][chosen] -= 1
                    left[value] -= 1
        del left[rarest]
    for at, chosen in enumerate(side):  # images that show nothing
        if chosen < 0:
            side[at] = int(room[1] > 0)
            room[side[at]] -= 1
    _mend(classes, images_of, side)
    return {at for at, chosen in enumerate(side) if chosen}


def _choose(want: Sequence[float], room: Sequence[int]) -> int:
    if min(room) <= 0:
        return int(room[1] > room[0])
    if want[0] == want[1]:
        return int(room[1] > room[0])
    return int(want[1] > want[0])


def _mend(classes: Sequence[frozenset[int]], images_of: Mapping[int, list[int]], side: list[int]) -> None:
    """Move images so that classes of two or more images are in both splits; rarest first, and none is taken back."""
    counts = {
        value: [sum(side[at] == split for at in images) for split in (0, 1)] for value, images in images_of.items()
    }
    for value in sorted(images_of, key=lambda value: (len(images_of[value]), value)):
        if len(images_of[value]) < 2 or min(counts[value]):
            continue
        source = int(counts[value][1] > 0)
        for at in images_of[value]:
            if all(counts[shown][source] > 1 or len(images_of[shown]) < 2 for shown in classes[at]):
                side[at] = 1 - source
                for shown in classes[at]:
                    counts[shown][source] -= 1
                    counts[shown][1 - source] += 1
                break
