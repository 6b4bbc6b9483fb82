"""Random numbers that depend only on the seed and the position in the run.

A resumed run draws what it would have drawn without the interruption, whatever the number of loader
workers and the moment of the kill. No state of a generator has to be saved.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import get_worker_info

# Kinds of position: the draws of a model in an iteration, and the pipeline of one sample.
DRAWS, SAMPLE = 0, 1


def seed_from(*position: int) -> int:
    """Return a 63-bit seed for a position in the run; neighbours get unrelated seeds."""
    digest = hashlib.blake2b(repr(position).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch, on all devices that the process uses."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    if get_device() == "cpu" or get_worker_info() is not None:
        # manual_seed would format a stack trace for each unused device, which takes 1 ms.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class NumberedBatch(list):
    """The indices of a batch, and the number of its iteration in the run."""

    number = 0


class NumberedBatches:
    """A batch sampler that numbers the batches of another, and can skip the first ones.

    Attributes:
        number: Number of the next batch, counted over the whole run.
        skip: How many batches to skip once, to resume an epoch in its middle.
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.number = 0
        self.skip = 0

    def __getattr__(self, name: str) -> Any:
        if name == "batches":  # not set yet while the object is unpickled
            raise AttributeError(name)
        return getattr(self.batches, name)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[NumberedBatch]:
        skip, self.skip = self.skip, 0
        for index, batch in enumerate(self.batches):
            if index < skip:
                continue
            numbered = NumberedBatch(batch)
            numbered.number = self.number
            self.number += 1
            yield numbered


class SeededSamples:
    """A data set's ``__getitems__`` that seeds before each sample, by its position in the run."""

    def __init__(self, dataset: Any, seed: int, rank: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.rank = rank

    def __call__(self, batch: Sequence[int]) -> list:
        """Return the samples of a batch, each drawn with its own seed."""
        number = getattr(batch, "number", 0)
        samples = []
        for place, index in enumerate(batch):
            seed_everything(seed_from(SAMPLE, self.seed, self.rank, number, place))
            samples.append(self.dataset[index])
        return samples


@HOOKS.register_module()
class PlacedRandomnessHook(Hook):
    """Seed every sample and every iteration by its position in the run.

    A resumed run equals an uninterrupted one in sample order, augmentation and the draws of the
    model, even if it is resumed in the middle of an epoch. Loader workers get new numbers in every
    epoch, while mmengine gives them the same seed each time.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Number the batches and seed the samples of the train loader."""
        self.seed = runner.seed
        loader = runner.train_dataloader
        self.batches = None
        if getattr(loader, "batch_sampler", None) is None or hasattr(
            loader.dataset, "__getitems__"
        ):
            runner.logger.warning(
                "PlacedRandomnessHook: the train loader has no batch sampler, or its data set "
                "fetches whole batches; the draws of its samples are not seeded by position"
            )
            return
        self.batches = NumberedBatches(loader.batch_sampler)
        # Patches, see docs/reliability.md; tested on torch 2.1 to 2.15. torch refuses a plain
        # assignment, since existing iterators would not notice; there are none yet.
        vars(loader)["batch_sampler"] = self.batches
        loader.dataset.__getitems__ = SeededSamples(loader.dataset, self.seed, get_rank())
        self._restart_iterator(runner)

    def _restart_iterator(self, runner: Runner) -> None:
        """Replace the iterator of an iteration-based loop, which may hold unnumbered batches."""
        iterator = getattr(runner.train_loop, "dataloader_iterator", None)
        if iterator is None:
            return
        sampler = runner.train_dataloader.sampler
        # Private names of mmengine 0.10.7 and onedl-mmengine 0.10.12.
        if getattr(iterator, "_iterator", None) is not None and hasattr(sampler, "indices"):
            sampler.indices = sampler._indices_of_rank()
        runner.train_loop.dataloader_iterator = type(iterator)(runner.train_dataloader)
        # To resume, mmengine reads batch by batch, which counts them, or, in the fork, advances the
        # sampler, which does not.
        if hasattr(sampler, "skip") and hasattr(iterator, "skip_iter"):
            self.batches.number = runner.iter

    def before_train_epoch(self, runner: Runner) -> None:
        """Go to the position of a run that stopped in the middle of an epoch."""
        if self.batches is None or hasattr(runner.train_loop, "dataloader_iterator"):
            return
        done = runner.iter - runner.epoch * len(self.batches)
        if 0 < done <= len(self.batches):
            self.batches.skip = done
            runner.logger.info(f"Resuming the epoch after {done} of {len(self.batches)} batches")
        self.batches.number = runner.iter

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the draws of the model."""
        seed_everything(seed_from(DRAWS, self.seed, get_rank(), runner.iter))
