"""Finding files below a folder, and what the names of the folders on the way say: a split, a role, or neither."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from lib.base.errors import UserError
from lib.base.names import check_name

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".npy", ".bmp", ".png")
"""What images and labels come in; of two files that differ in this alone, the earlier suffix is the image's."""

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
IMAGE_WORDS = ("images", "image", "imgs", "img", "jpegimages", "jpgs", "pictures", "photos", "leftimg8bit", "rgb")
LABEL_WORDS = (
    "segmentationclass",
    "segmentations",
    "segmentation",
    "groundtruth",
    "annotations",
    "annotation",
    "annots",
    "annot",
    "gtfine",
    "gtcoarse",
    "labels",
    "label",
    "masks",
    "mask",
    "targets",
    "gts",
    "gt",
    "seg",
)


@dataclass(frozen=True)
class Found:
    """A file below a folder.

    Attributes:
        path: the file.
        split: "train", "val" or "test" if a folder on the way says so, or "".
        folder: the other folders on the way, without those that are called "images", "masks" or the like.
        role: "label" or "image" if a folder on the way says so, or "".
    """

    path: Path
    split: str
    folder: tuple[str, ...]
    role: str

    @property
    def stem(self) -> str:
        return self.path.stem


def find_files(root: Path, problems: list[str], suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Found]:
    """The files below ``root`` with one of ``suffixes``, by path; hidden ones are passed over.

    What has such a name and is no regular file, or has a name that cannot be written everywhere, gets a line in
    ``problems``. Links to folders are followed, each folder is entered once.
    """
    found, seen = [], set()

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}")

    for place, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(place, name)
            if name.startswith(".") or path.suffix.lower() not in suffixes:
                continue
            if problem := _problem(path):
                problems.append(problem)
            else:
                found.append(Found(path, *describe(path.parent.relative_to(root).parts)))
    return found


def _problem(path: Path) -> str | None:
    try:
        check_name(path)
        if not stat.S_ISREG(os.stat(path).st_mode):
            return f"{path} is not a file that can be read but a pipe, socket or device: remove it"
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return None


def describe(parts: tuple[str, ...]) -> tuple[str, tuple[str, ...], str]:
    """Split, other folders and role of a path's folders: ("train", "masks", "aachen") -> train, (aachen,), label."""
    split, role, rest = "", "", []
    for part in parts:
        word, its_role = part.lower(), ""
        for kind, words in (("label", LABEL_WORDS), ("image", IMAGE_WORDS)):
            for candidate in words:
                # At an end, and apart from other letters unless what remains is a split: trainannot.
                stripped = re.sub(rf"^{candidate}(?![a-z])|(?<![a-z]){candidate}$", "", word)
                if stripped == word and word.removesuffix(candidate) in SPLIT_WORDS:
                    stripped = word.removesuffix(candidate)
                if stripped != word and not its_role:
                    word, its_role = stripped, kind
        word = re.sub(r"[\d_\-. ]+", "", word)
        its_split = SPLIT_WORDS.get(word, "")
        if its_split and not split:
            split, role = its_split, role or its_role
        elif its_role and not word:
            role = role or its_role
        else:
            rest.append(part)
    return split, tuple(rest), role
