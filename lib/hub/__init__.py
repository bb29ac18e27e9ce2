"""What ``torch.hub`` offers of the project: ``segmentor``, the networks and the blocks."""

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def entrypoints() -> dict[str, Callable[..., Any]]:
    """All of it, by name."""
    from lib.hub.networks import blocks, networks
    from lib.hub.segmentor import segmentor

    return {"segmentor": segmentor, **networks(), **blocks()}
