"""What was measured of one's own data, as settings of a run."""

from collections.abc import Collection
from typing import Any

from datasets.seg.classes import AUTO, find_table
from datasets.seg.fitted import FILE, READ, REMEDY, fit, read_facts
from lib.config import Config, Fitted
from lib.keys import get, keys


def fitted(config: Any, given: Collection[str]) -> Fitted | None:
    """The settings that follow from ``DATA_DIR/facts.json``, if there is one; None where it is not to count.

    Args:
        config: of a segmentation, as recipe and command line have it.
        given: the keys that the command line sets.

    Raises:
        UserError: the file, or the class table beside it, is not what it should be.
    """
    if not config.data.fitted or config.data.dataset != AUTO or not config.data.root or _is_wrong(config):
        return None
    facts = read_facts(config.data.root)
    if facts is None:
        # Said all the same, so that one made later changes nothing about what this configuration becomes.
        return Fitted(f"{config.data.root}, which has no {FILE}", {}, {"data.fitted": False}, "")
    has_weights = find_table(AUTO, config.data.root).weights is not None
    known = {key.name for key in keys(type(config))}
    values = fit(facts, has_weights, lambda name: get(config, name), given, known)
    return Fitted(facts.path, values, {"data.fitted": False, "data.fitted_to": facts.path}, REMEDY)


def _is_wrong(config: Config) -> bool:
    """Whether a key that the rules look at has a value that it may not have; that will be complained of."""
    asked = [key for key in keys(type(config)) if key.name in READ]
    return any(allowed.complaint(key.name, get(config, key.name), config) for key in asked for allowed in key.allowed)
