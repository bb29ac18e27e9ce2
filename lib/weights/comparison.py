"""How the entries of a state dict compare with those of a network."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

# Batch norm's step counter: files of PyTorch before 0.4.1 have none, and nothing reads it at momentum 0.1.
COUNTER = ".num_batches_tracked"

# What ``lib.models.insert`` calls a block in a unit of the backbone.
INSERTED = "inserted"


def is_inserted(name: str) -> bool:
    """Whether an entry belongs to a block that was inserted into a backbone, which weights from elsewhere lack."""
    return INSERTED in name.split(".")


@dataclass(frozen=True)
class Comparison:
    """Names of entries, in the order in which they were found."""

    matched: list[str]
    """In both, of one shape."""
    misshapen: list[str]
    """In both, of another shape."""
    missing: list[str]
    """Of the network alone."""
    unexpected: list[str]
    """Of the state dict alone."""


def compare(state: Mapping[str, Tensor], network: nn.Module) -> Comparison:
    """Sort the entries of ``state`` and of ``network``."""
    expected = network.state_dict()
    common = [name for name in expected if name in state]
    return Comparison(
        matched=[name for name in common if state[name].shape == expected[name].shape],
        misshapen=[name for name in common if state[name].shape != expected[name].shape],
        missing=[name for name in expected if name not in state],
        unexpected=[name for name in state if name not in expected],
    )


def describe(problems: Mapping[str, list[str]]) -> str:
    """Each kind of problem that has entries in words, with the number of its entries and one of them for an example."""
    return "; ".join(f"{len(names)} entries {kind} ({names[0]}...)" for kind, names in problems.items() if names)
