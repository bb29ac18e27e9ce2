"""Where weights to start from come from: a file, a folder, the net, or a library that is installed."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.base.errors import UserError, one_line
from lib.weights.download import URL, download, shown
from lib.weights.files import Damaged, find_checkpoint, read_file

LIBRARY = re.compile(r"(torchvision|timm):(.*)", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """What was read.

    Attributes:
        content: of the file, or a state dict.
        path: of the file, or the words that name it.
        input: how the images were given to the network, by the keys of the configuration, where that is known.
    """

    content: Any
    path: Path
    input: Mapping[str, Any] = field(default_factory=dict)

    def note(self, options: Mapping[str, Any] | None) -> list[str]:
        """A line where the images of ``options``, by the same keys, are others than those of the weights."""
        differ = [
            f"{key}={_word(value)}" for key, value in self.input.items() if options and options.get(key, value) != value
        ]
        return [f"{self.path} was trained with {', '.join(differ)}, which is set otherwise here"] if differ else []


def read_source(word: str | Path) -> Source:
    """The weights that ``word`` names: a file, a run folder (its best checkpoint), a published folder, an address
    (http or https), ``torchvision:NAME`` or ``torchvision:NAME:WEIGHTS``, or ``timm:NAME``.

    Raises:
        UserError: there is no such thing, it cannot be reached, or it is unreadable.
    """
    if isinstance(word, str) and URL.match(word):
        return Source(*_downloaded(word))
    if isinstance(word, str) and (library := LIBRARY.fullmatch(word)) and not Path(word).exists():
        return {"torchvision": _torchvision, "timm": _timm}[library[1]](word, library[2])
    path = find_checkpoint(word)
    return Source(read_file(path), path)


def _downloaded(url: str) -> tuple[Any, Path]:
    path = download(url)
    try:
        return read_file(path), path
    except Damaged as error:
        # Otherwise it would be taken from the cache for ever.
        path.unlink(missing_ok=True)
        raise UserError(f"{error}; it is removed from the cache, so that {shown(url)} is asked again") from None


def _torchvision(word: str, name: str) -> Source:
    try:
        from torchvision import models
    except ImportError:
        raise UserError(f"pretrained={word}: torchvision is not installed: pip install torchvision") from None
    network, _, chosen = name.partition(":")
    known = models.list_models(models)
    if network not in known:
        raise UserError(f"pretrained={word}: torchvision has no {network!r}{_like(network, known)}")
    weights = models.get_model_weights(network)
    if chosen and chosen not in weights.__members__:
        raise UserError(
            f"pretrained={word}: {network} has no weights {chosen!r}: choose {', '.join(weights.__members__)}"
        )
    found = weights[chosen] if chosen else weights.DEFAULT
    preset = found.transforms()
    # Through the project's own reader: the library's would run what a pickle asks for.
    return Source(_downloaded(found.url)[0], Path(word), _input(preset.mean, preset.std))


def _timm(word: str, name: str) -> Source:
    try:
        import timm
    except ImportError:
        raise UserError(f"pretrained={word}: timm is not installed: pip install timm") from None
    if not timm.is_model(name):
        raise UserError(f"pretrained={word}: timm has no {name!r}{_like(name, timm.list_models())}")
    try:
        network = timm.create_model(name, pretrained=True)
    except Exception as error:  # the library and those that it downloads with have no error in common
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"pretrained={word}: timm cannot load it: {one_line(lines[0])[:300]}") from None
    told = getattr(network, "pretrained_cfg", None) or {}
    mean, std = told.get("mean"), told.get("std")
    return Source(network.state_dict(), Path(word), _input(mean, std) if mean and std else {})


def _input(mean: Any, std: Any) -> dict[str, Any]:
    """Of RGB images from 0 to 1, by the keys of the configuration."""
    levels = {name: [round(255 * value, 3) for value in values] for name, values in (("mean", mean), ("std", std))}
    return {"data.color_order": "rgb", "data.mean": levels["mean"], "data.std": levels["std"]}


def _like(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f": did you mean {near[0]}?" if near else ""


def _word(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
