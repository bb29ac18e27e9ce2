"""One optimiser step, as training does it and benchmarks measure it."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from exts.sync_bn import convert_sync_batchnorm
from lib.config import TrainConfig
from lib.engine.distribute import World, use_bfloat16
from lib.engine.ema import WeightAverage


def placed(model: nn.Module, world: World, settings: TrainConfig) -> nn.Module:
    """The network made ready for training, in place: parts frozen, batch norm across processes, on its device."""
    if world.size > 1:
        convert_sync_batchnorm(model)
    model.freeze(stages=settings.freeze_stages, norm=settings.freeze_norm)
    return model.to(world.device, memory_format=memory_format(settings))


def memory_format(settings: TrainConfig) -> torch.memory_format:
    """How feature maps lie in memory."""
    return torch.channels_last if settings.channels_last else torch.contiguous_format


@dataclass(frozen=True)
class Outcome:
    """What a step leaves beside the new weights.

    Attributes:
        names: of the losses; the first is the one that was differentiated.
        losses: [len(names)], means over the step's micro-batches, still on the device.
        files: the images that this process took.
    """

    names: list[str]
    losses: Tensor
    files: list[str]


class Step:
    """From batches to the weights of the next iteration: gradients of all micro-batches, averaged.

    Args:
        model: as ``placed`` returns it.
        loss: takes the model's outputs and a label.
        optimizer: of the model.
        average: of the model's weights, if there is one.
        world: the job's processes.
        settings: of the training.

    Attributes:
        accumulation: micro-batches of a step.
        bfloat16: whether the network runs under bfloat16 autocast.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
        world: World,
        settings: TrainConfig,
    ) -> None:
        self.model, self.loss, self.optimizer, self.average = model, loss, optimizer, average
        self.world, self.settings = world, settings
        self.bfloat16 = use_bfloat16(settings.amp, world.device)
        share = settings.batch_size // world.size
        self.accumulation = share // (settings.micro_batch or share)
        self.network: nn.Module = model
        if world.size > 1:
            self.network = nn.parallel.DistributedDataParallel(
                model,
                device_ids=[world.device] if world.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                # PyTorch learns the graph from the first gradients, and fails where those do not travel at once.
                static_graph=self.accumulation == 1,
            )
        self.network.train()
        if settings.compile:
            self.network = torch.compile(self.network)

    def __call__(self, batches: Iterator[dict], iteration: int) -> Outcome:
        """Take the step's micro-batches from ``batches``; it is number ``iteration``, counted from 1."""
        losses, files, device = [], [], self.world.device
        for part in range(self.accumulation):
            batch = next(batches)
            image = batch["image"].to(device, non_blocking=True, memory_format=memory_format(self.settings))
            label = batch["label"].to(device, non_blocking=True)
            is_last = part == self.accumulation - 1
            # Gradients travel between processes once a step, with the last micro-batch.
            with nullcontext() if is_last or self.world.size == 1 else self.network.no_sync():
                with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
                    outputs = self.network(image)
                parts = self.loss(outputs, label)
                (parts["loss"] / self.accumulation).backward()
            losses.append(torch.stack([value.detach() for value in parts.values()]))
            files += [meta["image"] for meta in batch["meta"]]
        self._update(iteration)
        return Outcome(list(parts), torch.stack(losses).mean(0), files)

    def _update(self, iteration: int) -> None:
        """From the gradients to the weights."""
        if self.settings.clip_grad_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad_norm)
        self.optimizer.step()
        # At once, so that the next batch goes forward in the memory of these gradients.
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.model, iteration)
