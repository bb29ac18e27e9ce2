"""Which label belongs to which image: by their names, or by a list."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets.seg.own.affixes import STEM, Affix, infer, is_known, looks_like_label, parse_pattern
from datasets.seg.own.facts import Pair
from datasets.seg.own.listing import IMAGE_SUFFIXES, SPLIT_WORDS, Found, find_files
from lib.base.errors import UserError
from lib.base.names import LONGEST, check_name
from lib.base.regular import read_regular

LARGEST_LIST = 1 << 28
"""Bytes of a list of files."""


@dataclass
class Pairing:
    """Images with their labels, and what was left over.

    Attributes:
        pairs: with ``split`` "" where nothing says it yet.
        recognised: sentences on how they were paired.
        class_of: the class of each label file, where each class has files of its own.
    """

    pairs: list[Pair] = field(default_factory=list)
    recognised: list[str] = field(default_factory=list)
    images_alone: list[Pair] = field(default_factory=list)
    labels_alone: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    class_of: dict[Path, str] = field(default_factory=dict)


def pair_folders(images: Path, labels: Path, pattern: str | None = None) -> Pairing:
    """Pair the files below two folders, which may be one, or one inside the other.

    Args:
        images, labels: the folders.
        pattern: of names, for ``parse_pattern``; what they share is found from the names if there is none.

    Raises:
        UserError: a folder is none, or has no files that it should have, or the names do not pair up.
    """
    result = Pairing()
    ours, theirs = _find_both(images, labels, pattern, result)
    for what, folder, found in (("images", images, ours), ("labels", labels, theirs)):
        if not found:
            listed = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
            raise UserError(f"--{what} {folder} holds no {what}: files that end in {listed} are looked for")
    affixes = _affixes(ours, theirs, pattern)
    if _has_class_folders(ours, theirs, *affixes):
        _match_classes(ours, theirs, *affixes, result)
    else:
        _match(ours, theirs, *affixes, result)
    if not result.pairs:
        raise UserError(
            f"no image in {images} has a label in {labels} by its name ({ours[0].path.name} and "
            f"{theirs[0].path.name} are the first of each): give --pattern '{STEM}_mask' or --list FILE"
        )
    if any(pair.split for pair in result.pairs):
        outside = [pair for pair in result.pairs if not pair.split]
        result.pairs = [replace(pair, split=pair.split or "train") for pair in result.pairs]
        if outside:
            result.recognised.append(f"{len(outside)} images are in no folder of a split, and go to train")
    _name(result)
    return result


def images_only(images: Path) -> Pairing:
    """The images below a folder, each a pair without labels yet, for labels that one file holds for all."""
    result = Pairing()
    for found in find_files(images, result.problems):
        result.pairs.append(Pair("/".join((*found.folder, found.stem)), found.split, found.path, ()))
    if not result.pairs:
        raise UserError(f"--images {images} holds no images")
    _name(result)
    return result


def _find_both(images: Path, labels: Path, pattern: str | None, result: Pairing) -> tuple[list[Found], list[Found]]:
    one, two = images.resolve(), labels.resolve()
    if one != two:
        inside = [(first, second) for first, second in ((one, two), (two, one)) if second.is_relative_to(first)]
        ours, theirs = find_files(images, result.problems), find_files(labels, result.problems)
        for outer, inner in inside:
            found = [
                file for file in (ours if outer == one else theirs) if not file.path.resolve().is_relative_to(inner)
            ]
            ours, theirs = (found, theirs) if outer == one else (ours, found)
        return ours, theirs
    found = find_files(images, result.problems)
    if pattern:
        _, label_affix = parse_pattern(pattern)
        theirs = [file for file in found if label_affix.key(file.stem)]
    elif any(file.role == "label" for file in found):
        theirs = [file for file in found if file.role == "label"]
    else:
        theirs = _labels_among(found)
    chosen = set(theirs)
    ours = [file for file in found if file not in chosen]
    if not ours or not theirs:
        raise UserError(
            f"{images} is given for images and for labels, and no name tells which is which: name two folders, "
            f"or give --pattern '{STEM}_mask' or --list FILE"
        )
    return ours, theirs


def _labels_among(found: list[Found]) -> list[Found]:
    """The labels of a folder that images and labels share: by their endings, their suffix, or a common affix."""
    named = [file for file in found if looks_like_label(file.stem)]
    if named and len(named) < len(found):
        return named
    by_stem = defaultdict(list)
    for file in found:
        by_stem[file.split, file.folder, file.stem].append(file)
    if 2 * sum(len(files) == 2 for files in by_stem.values()) >= len(by_stem):
        rank = {suffix: at for at, suffix in enumerate(IMAGE_SUFFIXES)}
        return [max(files, key=lambda f: rank[f.path.suffix.lower()]) for files in by_stem.values() if len(files) > 1]
    stems = {file.stem for file in found}
    longer = [stem for stem in stems if any(stem[:at] in stems or stem[at:] in stems for at in range(1, len(stem)))]
    if not longer:
        return []
    _, affix, _ = infer(sorted(stems - set(longer)), sorted(longer))
    return [file for file in found if affix.key(file.stem) in stems] if len(affix) else []


def _affixes(images: list[Found], labels: list[Found], pattern: str | None) -> tuple[Affix, Affix]:
    stems = [sorted({file.stem for file in files}) for files in (images, labels)]
    if pattern:
        image_affix, label_affix = parse_pattern(pattern)
        return image_affix or Affix(), label_affix
    image_affix, label_affix, matched = infer(*stems)
    # Short names are found in many others by chance.
    if (len(image_affix) or len(label_affix)) and not is_known(label_affix) and 2 * matched < min(map(len, stems)):
        return Affix(), Affix()
    return image_affix, label_affix


def _by_key(files: Iterable[Found], affix: Affix) -> dict[str, list[Found]]:
    groups = defaultdict(list)
    for file in files:
        if key := affix.key(file.stem):
            groups[key].append(file)
    return groups


def _has_class_folders(images: list[Found], labels: list[Found], image_affix: Affix, label_affix: Affix) -> bool:
    """Whether the folders of the labels are classes: some image has labels in several, and images have no such."""
    if not all(label.folder for label in labels):
        return False
    folders = {part for image in images for part in image.folder}
    if any(label.folder[0] in folders for label in labels):
        return False
    keys = _by_key(images, image_affix)
    places: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key, files in _by_key(labels, label_affix).items():
        for label in files:
            places[label.split, key].add(label.folder[0])
    return any(len(classes) > 1 and key in keys for (_, key), classes in places.items()) and not any(
        len(keys.get(key, ())) > 1 and len({image.split for image in keys[key]}) == 1 for _, key in places
    )


def _match_classes(
    images: list[Found], labels: list[Found], image_affix: Affix, label_affix: Affix, result: Pairing
) -> None:
    by_key = _by_key(labels, label_affix)
    used = set()
    for image in images:
        key = image_affix.key(image.stem)
        own = [label for label in by_key.get(key, ()) if _one_split(image, label)]
        used.update(own)
        result.class_of |= {label.path: label.folder[0] for label in own}
        if own:
            result.pairs.append(_pair(image, own))
        else:
            result.images_alone.append(_pair(image, []))
    result.labels_alone += [label.path for label in labels if label not in used]
    classes = sorted(set(result.class_of.values()))
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    result.recognised.append(f"each class has masks of its own, in a folder of its name ({shown})")
    _say_affixes(image_affix, label_affix, len(result.pairs), result)


def _match(images: list[Found], labels: list[Found], image_affix: Affix, label_affix: Affix, result: Pairing) -> None:
    rounds = 0
    while images and labels:
        pairs = list(_matches(images, labels, image_affix, label_affix, result))
        if pairs or not rounds:
            _say_affixes(image_affix, label_affix, len(pairs), result)
        result.pairs += [_pair(image, [label]) for image, label in pairs]
        done = {file for pair in pairs for file in pair}
        images = [file for file in images if file not in done]
        labels = [file for file in labels if file not in done]
        rounds += 1
        if not images or not labels or not pairs:
            break
        # Some of the labels may be called in another way; but by chance nothing more is paired.
        image_affix, label_affix, matched = infer(sorted({f.stem for f in images}), sorted({f.stem for f in labels}))
        if not matched or (len(label_affix) and not is_known(label_affix)) or rounds > len(PREFIXES_TRIED):
            break
    result.images_alone += [_pair(file, []) for file in images]
    paired = {Path(pair.image).stem for pair in result.pairs}
    others = [file for file in labels if _belongs_to(file.stem, paired)]
    result.labels_alone += [file.path for file in labels if file not in set(others)]
    if others:
        name = others[0].path.name
        result.recognised.append(
            f"{len(others)} more files, such as {name}, are of images that have a label already; left out (--pattern "
            f"chooses)"
        )


PREFIXES_TRIED = range(4)
"""Ways of naming labels that one dataset may mix."""


def _belongs_to(stem: str, paired: set[str]) -> bool:
    """Whether a label's name continues, from its start, what is the name of an image that has another label."""
    starts = [stem[:at] for at in range(len(stem), 0, -1) if not stem[at : at + 1].isalnum()]
    return any(start in paired or f"{start}_leftImg8bit" in paired for start in starts)


def _matches(
    images: list[Found], labels: list[Found], image_affix: Affix, label_affix: Affix, result: Pairing
) -> Iterable[tuple[Found, Found]]:
    by_key = _by_key(labels, label_affix)
    for key, ours in _by_key(images, image_affix).items():
        theirs = by_key.get(key, [])
        for image in ours:
            fitting = [label for label in theirs if _one_split(image, label)]
            rivals = [other for other in ours if other.split == image.split]
            if len(fitting) > 1 or len(rivals) > 1:
                fitting = [label for label in fitting if label.folder == image.folder]
            if len(fitting) > 1:
                exact = [label for label in fitting if label.split == image.split]
                fitting = exact if len(exact) == 1 else fitting
            if len(fitting) == 1:
                yield image, fitting[0]
            elif fitting:
                listed = " and ".join(str(label.path) for label in fitting[:2])
                result.problems.append(f"{image.path} has {len(fitting)} labels: {listed}: remove all but one")


def _one_split(image: Found, label: Found) -> bool:
    return image.split == label.split or not image.split or not label.split


def _pair(image: Found, labels: list[Found]) -> Pair:
    split = image.split or (labels[0].split if labels else "")
    return Pair("/".join((*image.folder, image.stem)), split, image.path, tuple(label.path for label in labels))


def _say_affixes(image_affix: Affix, label_affix: Affix, count: int, result: Pairing) -> None:
    if len(image_affix) or len(label_affix):
        how = f"the image {image_affix} goes with the label {label_affix}"
    else:
        how = "an image and its label have the same name"
    result.recognised.append(f"{count} images were paired with labels by name: {how}")


def _name(result: Pairing) -> None:
    """Turn "folder/stem" into names: the stem where that is one image's, with its folder where it is several's."""
    result.pairs = _named(result.pairs, result.problems)
    result.images_alone = _named(result.images_alone, result.problems)


def _named(pairs: list[Pair], problems: list[str]) -> list[Pair]:
    named, taken, stems = [], defaultdict(list), defaultdict(list)
    for pair in pairs:
        stems[pair.split, pair.name.rpartition("/")[2]].append(pair)
    for (split, stem), same in stems.items():
        for pair in same:
            name = stem if len(same) == 1 else pair.name.replace("/", "_")
            taken[split, name].append(pair)
    for (_, name), same in taken.items():
        if len(same) > 1:
            problems.append(f"two images named {name}: {same[0].image} and {same[1].image}: rename one")
        elif len(name.encode("utf-8", "surrogateescape")) + 4 > LONGEST:
            problems.append(f"{same[0].image}: its name with its folders is too long: rename it")
        else:
            named.append(replace(same[0], name=name))
    return sorted(named, key=lambda pair: (pair.split, pair.name))


def pair_list(file: Path, images: Path | None, labels: Path | None) -> Pairing:
    """Pair as a list says: on each line an image, its label, and, if wanted, its split.

    Args:
        file: lines of two or three words between commas, semicolons, tabs or spaces; a first line of headings and
            lines that begin with ``#`` are passed over, and a line with an image alone is one without label.
        images, labels: folders that the paths are relative to; that of ``file`` where None.

    Raises:
        UserError: it cannot be read, or a line is none; with the line.
    """
    result = Pairing()
    folders = [images or file.parent, labels or file.parent]
    for number, words in _lines(file):
        where = f"{file}, line {number}"
        if number == 1 and words[0].lower() in ("image", "images", "img", "file", "image_path"):
            continue
        if len(words) > 3:
            raise UserError(f"{where} has {len(words)} words: an image, its label and perhaps its split are expected")
        split = SPLIT_WORDS.get(words[2].lower(), "") if len(words) > 2 and words[2] else ""
        if len(words) > 2 and words[2] and not split:
            raise UserError(f"{where}: '{words[2]}' is no split: write train, val or test")
        paths = [folder / word for folder, word in zip(folders, words, strict=False) if word]
        if problem := next(filter(None, map(_unusable, paths)), None):
            result.problems.append(f"{where}: {problem}")
        else:
            place = [part for part in Path(words[0]).parent.parts if part not in ("/", "..", ".")]
            pair = Pair("/".join((*place, paths[0].stem)), split, paths[0], tuple(paths[1:]))
            (result.pairs if pair.labels else result.images_alone).append(pair)
    if not result.pairs:
        raise UserError(f"--list {file} names no image with a label that is there")
    result.recognised.append(f"{len(result.pairs)} images were paired with labels by {file}")
    _name(result)
    return result


def _unusable(path: Path) -> str | None:
    try:
        check_name(path)
    except UserError as error:
        return str(error)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return f"{path} is neither an image nor a label by its ending"
    try:
        if not path.is_file():
            return f"there is no file {path}"
    except (OSError, ValueError):
        return "no file can have such a name"
    return None


def _lines(file: Path) -> Iterable[tuple[int, Sequence[str]]]:
    """The words of each line that has any."""
    text = read_text(file, "--list")
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((sign for sign in ",;\t" if sign in first), None)
    if delimiter is None:
        rows: Iterable[list[str]] = (line.split() for line in text.splitlines())
    else:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for number, row in enumerate(rows, 1):
            words = [word.strip() for word in row]
            if words and words[0] and not words[0].startswith("#"):
                yield number, words
    except csv.Error as error:
        raise UserError(f"--list {file}: {error}") from None


def read_text(file: Path, option: str) -> str:
    """A text file that an option names; raises UserError where it cannot be read."""
    try:
        return read_regular(file, LARGEST_LIST).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{option} {file} is not UTF-8: save it as UTF-8") from None
    except UserError as error:
        raise UserError(f"{option}: {error}") from None
