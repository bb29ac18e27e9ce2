"""What networks return, for tests that compare them bit by bit."""

import torch


def image(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tensors(output):
    """All tensors of what a network returns."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [tensor for part in (output.values() if isinstance(output, dict) else output) for tensor in tensors(part)]


@torch.no_grad()
def computed(network, *arguments):
    return tensors(network(*arguments))


def equal(ours, theirs):
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))
