"""What a task hands to the engine: the parts of a run. The engine knows no other side of one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from lib.config import Config

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from lib.base.peers import Peers
    from lib.engine.distribute import World


@dataclass(frozen=True)
class Result:
    """Scores of a validation, as a run tells them."""

    best: float
    """The score by which one checkpoint is better than another; the higher, the better."""
    row: dict[str, Any]
    """For ``metrics.jsonl``."""
    curves: dict[str, float]
    """For TensorBoard, by their names there."""
    headline: str
    """The best of ``best`` in words, for the log."""
    details: str
    """What the log says besides."""


class Data(Protocol):
    """A dataset whose items are dictionaries of tensors and a ``meta``, which names its file as ``image``."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any) -> dict[str, Any]: ...


class Tally(Protocol):
    """What one evaluation counts."""

    def add(self, batch: dict[str, Any], predictions: "Tensor") -> None:
        """Count a batch, if it has labels."""

    def sum(self, peers: "Peers") -> None:
        """Add up what all processes counted."""

    def scores(self) -> Any:
        """Of everything that was counted."""


class Results(Protocol):
    """Writes the result of each image while an evaluation goes on."""

    def __call__(self, meta: dict[str, Any], image: "Tensor", prediction: "np.ndarray") -> None: ...

    def close(self) -> None:
        """Wait until everything is written; raises what went wrong."""


class Task(Protocol):
    """The parts of a run. The engine asks for each when it needs it, once, and looks into none of them.

    Every one may raise a UserError, where configuration, data or files make it impossible.
    """

    name: ClassVar[str]
    """As ``task`` says it in a configuration; the first folder below the runs' root."""
    schema: ClassVar[type[Config]]
    """Of its configuration."""
    best: ClassVar[str]
    """Name of the score that ``Result.best`` is, in ``Result.row`` too."""

    def __init__(self, config: Config) -> None: ...

    def train_data(self) -> Data:
        """What is trained on; its keys are (epoch, index)."""

    def eval_data(self, split: str) -> Data:
        """What is evaluated of ``val`` or ``test``; its keys are indices."""

    @property
    def options(self) -> dict[str, Any]:
        """What the network and its input are made with, by the keys of the configuration.

        Another project's checkpoint is compared with these, as far as it says how it was made.
        """

    @property
    def texts(self) -> dict[str, str]:
        """What a checkpoint carries beside the configuration, so that it is enough to use the network: its classes."""

    def compare(self, texts: dict[str, str], path: Path) -> str | None:
        """See whether the ``texts`` of the checkpoint ``path`` agree with what the data say.

        Returns:
            A line for the log where they differ in what a prediction's meaning does not depend on.

        Raises:
            UserError: a text is damaged, or the classes are others.
        """

    def adopt(self, texts: dict[str, str], path: Path) -> None:
        """Use the ``texts`` of the checkpoint ``path`` in place of what the data say."""

    def network(self) -> "nn.Module":
        """The network with its first weights; it has ``freeze`` and a ``backbone``, which may learn at its own rate."""

    def loss(self, peers: "Peers") -> "nn.Module":
        """Takes the network's outputs and ``label``; returns {"loss": to differentiate, further ones: to log}."""

    def predict(self, network: "nn.Module", image: "Tensor") -> "Tensor":
        """The predictions [B, ...] for a batch of ``image``."""

    @property
    def protocol(self) -> dict[str, Any]:
        """How predictions are made, for the record; ``mode`` in a word."""

    def tally(self, on: "torch.device", in_full: bool = False) -> Tally:
        """Counts of nothing yet; ``in_full`` for a ``report``, which may tell what training has no time to count."""

    def describe(self, scores: Any) -> Result:
        """What the run tells of a tally's scores."""

    def picture(self, image: "Tensor", prediction: "np.ndarray") -> "np.ndarray":
        """RGB uint8 [H, W, 3] of one prediction, for TensorBoard."""

    def results(self, folder: Path) -> Results:
        """The writer of what ``val`` and ``test`` leave of each image."""

    def report(self, folder: Path, data: Data, tally: Tally, facts: dict[str, Any], world: "World") -> str | None:
        """Write what ``val`` and ``test`` leave of all images; every process calls it.

        Args:
            facts: what the engine knows, to be written with the scores.

        Returns:
            The scores as a table, if there are any, in the main process.
        """
