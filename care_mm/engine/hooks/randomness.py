"""Random numbers that depend on the seed and the place in the run alone, not on what came before.

A run that is resumed then draws what it would have drawn, whatever the number of loader workers and
processes, and the moment of the kill; no generator's state has to be kept.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import get_worker_info

DRAWS, SAMPLE = (
    0,
    1,
)  # kinds of place: what a model draws in an iteration, and one sample's pipeline


def seed_from(*place: int) -> int:
    """A 63-bit seed for a place in the run; neighbours get unrelated ones."""
    digest = hashlib.blake2b(repr(place).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch; of all devices, but for loader workers."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    if get_device() == "cpu" or get_worker_info() is not None:
        # manual_seed would format a stack trace for a device that nobody uses, which takes 1 ms.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class NumberedBatch(list):
    """Indices of a batch, and which iteration of the run it is for."""

    number = 0


class NumberedBatches:
    """A batch sampler that numbers the batches of another, and can leave the first ones out.

    Attributes:
        number: Of the next batch, counted over the whole run.
        skip: How many batches to leave out once, of an epoch that is resumed in its middle.
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.number = 0
        self.skip = 0

    def __getattr__(self, name: str) -> Any:
        if name == "batches":  # not yet there while being unpickled
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
    """A dataset's ``__getitems__`` that seeds before every sample by its place in the run."""

    def __init__(self, dataset: Any, seed: int, rank: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.rank = rank

    def __call__(self, batch: Sequence[int]) -> list:
        number = getattr(batch, "number", 0)
        samples = []
        for place, index in enumerate(batch):
            seed_everything(seed_from(SAMPLE, self.seed, self.rank, number, place))
            samples.append(self.dataset[index])
        return samples


@HOOKS.register_module()
class PlacedRandomnessHook(Hook):
    """Seed every sample and every iteration by its place in the run.

    A resumed run equals one that was not interrupted: sample order, augmentation and what the model
    draws, also where an epoch was left in its middle. Workers, which mmengine seeds alike in every
    epoch, get new numbers.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Number the batches and seed the samples of the loader."""
        self.seed = runner.seed
        loader = runner.train_dataloader
        self.batches = None
        if getattr(loader, "batch_sampler", None) is None or hasattr(
            loader.dataset, "__getitems__"
        ):
            runner.logger.warning(
                "PlacedRandomnessHook: the train loader has no batch sampler or fetches batches "
                "itself; what its samples draw is not seeded by place"
            )
            return
        self.batches = NumberedBatches(loader.batch_sampler)
        # torch refuses an assignment since its iterators would not notice; there are none yet.
        vars(loader)["batch_sampler"] = self.batches
        loader.dataset.__getitems__ = SeededSamples(loader.dataset, self.seed, get_rank())
        self._restart_iterator(runner)

    def _restart_iterator(self, runner: Runner) -> None:
        """An iteration-based loop may have begun to read with the batches as they were."""
        iterator = getattr(runner.train_loop, "dataloader_iterator", None)
        if iterator is None:
            return
        sampler = runner.train_dataloader.sampler
        if getattr(iterator, "_iterator", None) is not None and hasattr(sampler, "indices"):
            sampler.indices = sampler._indices_of_rank()
        runner.train_loop.dataloader_iterator = type(iterator)(runner.train_dataloader)
        # mmengine goes forward to the place of a resumed run: in the sampler, past our count, or
        # batch by batch, which counts.
        if hasattr(sampler, "skip") and hasattr(iterator, "skip_iter"):
            self.batches.number = runner.iter

    def before_train_epoch(self, runner: Runner) -> None:
        """Go to the place of a run that was left in the middle of an epoch."""
        if self.batches is None or hasattr(runner.train_loop, "dataloader_iterator"):
            return
        done = runner.iter - runner.epoch * len(self.batches)
        if 0 < done <= len(self.batches):
            self.batches.skip = done
            runner.logger.info(f"The epoch goes on after {done} of {len(self.batches)} batches")
        self.batches.number = runner.iter

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed what the model draws."""
        seed_everything(seed_from(DRAWS, self.seed, get_rank(), runner.iter))


def use_deterministic(config: Config) -> None:
    """Seeds as the config has them, 0 where it has none, and deterministic algorithms only."""
    randomness = config.get("randomness") or {}
    seed = randomness.get("seed")
    config.randomness = dict(randomness, seed=0 if seed is None else seed, deterministic=True)
    env = config.get("env_cfg") or {}
    config.env_cfg = dict(env, cudnn_benchmark=False)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
