"""What a batch norm that cannot work means to a user."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from lib.base.errors import UserError

SIGNS = ("more than 1 value per channel", "more than one value a channel")
"""What PyTorch's batch norm and this project's say of an input of one value a channel, which has no variance."""


@contextmanager
def explain_single_values(network: nn.Module) -> Iterator[None]:
    """Name the batch norm of ``network`` that is given one value per channel, and what would give it more.

    Raises:
        UserError: in place of its ValueError.
    """
    try:
        yield
    except ValueError as error:
        if not any(sign in str(error) for sign in SIGNS):
            raise
        names = {id(module): name for name, module in network.named_modules()}
        found, step = "", error.__traceback__
        while step is not None:
            found = names.get(id(step.tb_frame.f_locals.get("self"))) or found
            step = step.tb_next
        raise UserError(
            f"batch norm {found} sees one value per channel, which has no variance: raise train.batch_size or "
            "train.micro_batch, so that each process has two images at once, or data.crop_size"
        ) from error
