"""What a diagnosis says."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong.

    Attributes:
        what: it is, in a sentence without full stop.
        remedy: what can be done, likewise.
        paths: of the files concerned, as the user has them.
        severe: whether training on the data as it is would be in vain, or its scores mean nothing.
    """

    what: str
    remedy: str
    paths: list[Path] = field(default_factory=list)
    severe: bool = False
