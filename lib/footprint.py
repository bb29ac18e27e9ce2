"""How much memory a network needs for images of a size, found out without computing or taking any of it."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

SCRATCH = 1.5
"""What kernels take beside their results: reordered copies, workspaces, what an allocator cannot use again."""


def forward_bytes(network: nn.Module, images: tuple[int, int, int, int], *, bfloat16: bool) -> int:
    """The most bytes that the feature maps of one forward pass take at a time, without the weights.

    Args:
        network: a segmentor in evaluation mode, on the device that is asked for.
        images: their shape, (number, bands, height, width).
        bfloat16: whether it runs under bfloat16 autocast.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    device = next(iter(tensors.values())).device
    # Tensors without contents, which choose the same kernels as those that have some.
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), _Live() as live:
        state = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
        weights = live.now
        image = torch.empty(images, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            functional_call(network, state, (image,))
    return int(SCRATCH * (live.peak - weights))


class _Live(TorchDispatchMode):
    """Counts the bytes of the results that are alive at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(part, Tensor):
                self._add(part)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        number, size = storage._cdata, storage.nbytes()
        if number in self.known:
            return
        self.known.add(number)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, number, size)

    def _drop(self, number: int, size: int) -> None:
        self.known.discard(number)
        self.now -= size
