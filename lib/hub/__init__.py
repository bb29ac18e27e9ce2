"""What ``torch.hub`` offers of the project: ``segmentor``, the networks, the blocks, and how these are inserted."""

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def entrypoints() -> dict[str, Callable[..., Any]]:
    """All of it, by name."""
    from lib.hub.networks import blocks, networks
    from lib.hub.segmentor import segmentor
    from lib.models.insert import insert_blocks, insert_preset

    inserting = {"insert_blocks": insert_blocks, "insert_preset": insert_preset}
    return {"segmentor": segmentor, **inserting, **networks(), **blocks()}
