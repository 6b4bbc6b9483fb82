"""Samples and batches get seeds that depend only on their position in the run."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import torch

from care_mm.engine.hooks.randomness import NumberedBatches, SeededSamples, seed_from


def _batches(number: int) -> NumberedBatches:
    return NumberedBatches([[3 * i, 3 * i + 1, 3 * i + 2] for i in range(number)])


def test_batches_are_numbered_over_the_run_and_skipped_once() -> None:
    batches = _batches(4)
    batches.number, batches.skip = 9, 1
    assert [(batch.number, batch[0]) for batch in batches] == [(9, 3), (10, 6), (11, 9)]
    assert [(batch.number, batch[0]) for batch in batches][:2] == [(12, 0), (13, 3)]
    assert len(batches) == 4


def test_samples_depend_only_on_their_position() -> None:
    class Draws:
        def __getitem__(self, index: int) -> tuple:
            return index, random.random(), float(np.random.rand()), float(torch.rand(()))

    fetch = SeededSamples(Draws(), seed=1, rank=0)
    batches = list(_batches(2))
    first = fetch(batches[1])
    fetch(batches[0])
    assert fetch(batches[1]) == first
    assert SeededSamples(Draws(), seed=1, rank=1)(batches[1]) != first
    assert SeededSamples(Draws(), seed=2, rank=0)(batches[1]) != first
    numbers = [number for _, *draws in fetch(batches[0]) + first for number in draws]
    assert len(set(numbers)) == len(numbers)


def test_seeds_do_not_collide() -> None:
    places = list(product((0, 1), (0, 1), range(50), (0, 1)))
    assert len({seed_from(*place) for place in places}) == len(places)
