"""The stream of training samples and its even division among processes, workers and micro-batches."""

import atexit
import multiprocessing
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from lib.base.errors import UserError
from lib.base.memory import KILLED, shortage
from lib.base.processes import end_with_parent, ignore_signals
from lib.engine.task import Data

if TYPE_CHECKING:
    from lib.engine.distribute import World


class TrainStream(Sampler):
    """The endless order of training samples, cut into this process's micro-batches of (epoch, index) pairs.

    The stream is a permutation of all samples for epoch 0, then one for epoch 1, and so on; no sample is dropped at an
    epoch's end. Iteration i takes positions i * batch_size .. (i + 1) * batch_size of it, whatever the number of
    processes: process ``rank`` has an equal, contiguous share of them and sees it in micro-batches.

    Args:
        samples: number of samples in the training set.
        batch_size: images of one iteration, over all processes and micro-batches.
        micro_batch: images that this process handles at once; 0 = its whole share of the iteration.
        rank, world_size: this process and the number of processes.
        start_iteration, iterations: the first iteration to give out, and the one to stop before.
        seed: of the permutations; 0 or more.

    Raises:
        UserError: if the batch cannot be divided evenly.
    """

    def __init__(
        self,
        samples: int,
        *,
        batch_size: int,
        micro_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_iteration: int = 0,
        iterations: int,
        seed: int,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise UserError(f"batch size {batch_size} cannot be shared evenly by {world_size} processes")
        share = batch_size // world_size
        if micro_batch < 0 or share % (micro_batch or share):
            raise UserError(f"micro-batch {micro_batch} does not divide the {share} images of each process evenly")
        self.samples = samples
        self.batch_size = batch_size
        self.micro_batch = micro_batch or share
        self.first = rank * share
        self.share = share
        self.start_iteration = start_iteration
        self.iterations = iterations
        self.seed = seed
        self._order = lru_cache(maxsize=2)(self._permutation)

    def __len__(self) -> int:
        """Number of micro-batches."""
        return max(0, self.iterations - self.start_iteration) * (self.share // self.micro_batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for iteration in range(self.start_iteration, self.iterations):
            begin = iteration * self.batch_size + self.first
            for position in range(begin, begin + self.share, self.micro_batch):
                yield [self._at(position + i) for i in range(self.micro_batch)]

    def _at(self, position: int) -> tuple[int, int]:
        epoch, offset = divmod(position, self.samples)
        return epoch, int(self._order(epoch)[offset])

    def _permutation(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,)))
        return rng.permutation(self.samples)


def first_at_hand(loader: "Loader", world: "World") -> Iterator[dict]:
    """The loader's batches, once every process has its first one.

    What cannot be read at all shows before the caller writes anything.
    """
    batches = iter(loader)
    first = list(islice(batches, 1))
    world.wait()
    return chain(first, batches)


def start_worker(_worker: int) -> None:
    """Prepare a worker process: one thread for every computation, and no part in Ctrl-C, SIGTERM and SIGHUP.

    Signals reach the whole process group, and the main process alone decides what they mean. A worker ends with
    its main process even where that is killed: it holds the same files open, the lock on the run among them.
    """
    parent = multiprocessing.parent_process()
    # A process of a fork server is another's child, and holds nothing of this one's open.
    is_child = parent is not None and multiprocessing.get_start_method() != "forkserver"
    end_with_parent(parent.pid if is_child else None)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    ignore_signals()


class Loader(DataLoader):
    """A DataLoader of batches that raises a worker's UserError as it is, and whose workers can be stopped.

    A batch is {"image": float32 [B, C, H, W], "label": int64 [B, H, W], "meta": list of B dicts}. Use it as a context
    manager, or call ``close``: workers outlive an iteration, ready for the next.
    """

    def __init__(self, dataset: Dataset, *, workers: int, **options) -> None:
        super().__init__(
            _Guarded(dataset),
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=start_worker,
            persistent_workers=workers > 0,
            # Starting an iteration draws a number, which must not come out of the training's own stream.
            generator=torch.Generator(),
            **options,
        )

    def __iter__(self) -> Iterator[dict]:
        if self.num_workers and self._iterator is None:
            # Workers ignore SIGTERM, so they must be told to stop before multiprocessing waits for them at exit.
            atexit.register(self.close)
        batches = super().__iter__()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (ConnectionError, EOFError) as error:
                batch = UserError(KILLED)
                batch.__cause__ = error
            if isinstance(batch, UserError):
                self.close()
                raise batch
            yield batch

    def close(self) -> None:
        """Stop the workers; the next iteration would start new ones."""
        atexit.unregister(self.close)
        if self._iterator is not None:
            self._iterator._shutdown_workers()
            for worker in self._iterator._workers:
                worker.kill()
            self._iterator = None

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Guarded(Dataset):
    """A dataset that returns a UserError instead of raising it: PyTorch would bury the message in a traceback.

    Errors of the system and of memory become such.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> dict | UserError:
        try:
            return self.dataset[key]
        except UserError as error:
            return error
        except OSError as error:
            return UserError(str(error))
        except Exception as error:
            if line := shortage(error):
                return UserError(f"{self._name(key)}: {line}")
            raise

    def _name(self, key: int | tuple[int, int]) -> str:
        """Of an item's file, where the dataset has a list of them."""
        index = key[1] if isinstance(key, tuple) else key
        samples = getattr(self.dataset, "samples", None)
        return str(samples[index].image) if samples else f"item {index}"


def _collate(items: list[dict | UserError]) -> dict | UserError:
    for item in items:
        if isinstance(item, UserError):
            return item
    try:
        batch = {key: default_collate([item[key] for item in items]) for key in items[0] if key != "meta"}
    except RuntimeError as error:
        # Workers hand batches on in files of shared memory, which PyTorch names so.
        if "</torch_" not in str(error):
            raise
        return UserError(
            f"the shared memory of the loader's processes is full ({error}): give /dev/shm more room, lower "
            "data.workers or data.crop_size, or set data.workers=0"
        )
    return batch | {"meta": [item["meta"] for item in items]}


def train_loader(
    dataset: Data,
    *,
    batch_size: int,
    micro_batch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    start_iteration: int = 0,
    iterations: int,
    seed: int,
    workers: int,
    pin_memory: bool = False,
) -> Loader:
    """Loader of this process's micro-batches, in the order of ``TrainStream``, which documents the arguments.

    Its length is the number of micro-batches from ``start_iteration`` to ``iterations``. A resumed run passes the
    iteration it stopped at; nothing is replayed, and the number of workers (0 = none, in this process) is of no effect.
    """
    stream = TrainStream(
        len(dataset),
        batch_size=batch_size,
        micro_batch=micro_batch,
        rank=rank,
        world_size=world_size,
        start_iteration=start_iteration,
        iterations=iterations,
        seed=seed,
    )
    return Loader(dataset, workers=workers, batch_sampler=stream, pin_memory=pin_memory)


def eval_loader(dataset: Data, *, rank: int = 0, world_size: int = 1, workers: int, pin_memory: bool = False) -> Loader:
    """Loader of single images (batch size 1): every ``world_size``-th of the dataset from ``rank`` on."""
    share = range(rank, len(dataset), world_size)
    return Loader(dataset, workers=workers, sampler=share, batch_size=1, pin_memory=pin_memory)
