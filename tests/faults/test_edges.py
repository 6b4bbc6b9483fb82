"""The ends of the range: sizes, shapes of the network, batches, workers, seeds."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from itertools import product
from pathlib import Path

import injectors
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_job import finish, start, told

from care_mm import CARETransformer
from care_mm.checkpoint.reading import read_checkpoint
from care_mm.engine.hooks.randomness import NumberedBatches, SeededSamples, seed_from
from care_mm.engine.hooks.samples import BadSample
from care_mm.engine.run import _said_in_one_line
from care_mm.errors import InputError

SIZES = st.integers(32, 200)


@st.composite
def archs(draw: st.DrawFn) -> dict:
    """A small network of any number of stages."""
    stages = draw(st.integers(1, 4))
    heads = [draw(st.sampled_from((2, 4, None))) for _ in range(stages)]
    return dict(
        depths=[draw(st.integers(1, 2)) for _ in range(stages)],
        mem_dims=[4 * draw(st.integers(1, 3)) for _ in range(stages)],
        interaction_ratios=[[draw(st.integers(1, 2)), draw(st.integers(1, 2))]] * stages,
        attn_head_dims=heads,
    )


@settings(max_examples=40, deadline=None)
@given(arch=archs(), height=SIZES, width=SIZES, batch=st.integers(1, 2), data=st.data())
def test_any_network_takes_any_size(
    arch: dict, height: int, width: int, batch: int, data: st.DataObject
) -> None:
    stages = len(arch["depths"])
    indices = data.draw(
        st.lists(st.integers(0, stages - 1), min_size=1, unique=True).map(lambda i: sorted(i))
    )
    model = CARETransformer(arch=arch, out_indices=tuple(indices)).eval()
    with torch.no_grad():
        outputs = model(torch.randn(batch, 3, height, width))
    assert len(outputs) == len(indices)
    for output, channels, stride in zip(
        outputs, model.out_channels, model.out_strides, strict=True
    ):
        assert torch.isfinite(output).all()
        assert tuple(output.shape[:2]) == (batch, channels)
        for side, full in zip(output.shape[2:], (height, width), strict=True):
            assert side >= 1 and abs(side - full / stride) < 1


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (32, 1600), (1600, 32)])
def test_extreme_shapes(height: int, width: int) -> None:
    model = CARETransformer("s0").eval()
    with torch.no_grad():
        for output in model(torch.randn(1, 3, height, width)):
            assert torch.isfinite(output).all() and output.numel()


@pytest.mark.parametrize(("size", "norm_eval"), [(32, True), (64, False), (97, False)])
def test_batch_of_one_trains(size: int, norm_eval: bool) -> None:
    model = CARETransformer("s0", out_indices=(3,), norm_eval=norm_eval).train()
    model(torch.randn(1, 3, size, size))[0].square().mean().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all(torch.isfinite(grad).all() for grad in grads)


def test_one_value_for_a_batch_norm_is_named() -> None:
    """A single picture of 32 pixels is one pixel in stage 4, which has no variance."""
    model = CARETransformer("s0", out_indices=(3,)).train()
    with pytest.raises(InputError, match=r"larger pictures.*norm_eval=True"), _said_in_one_line():
        model(torch.randn(1, 3, 32, 32))


def test_run_with_single_pictures_of_32_pixels(tmp_path: Path) -> None:
    assert finish(tmp_path / "run", batch=1, rounds=1) == 0
    assert [len(line["samples"]) for line in told(tmp_path / "run")] == [1] * 12


# Loaders


def _batches(number: int) -> NumberedBatches:
    return NumberedBatches([[3 * i, 3 * i + 1, 3 * i + 2] for i in range(number)])


def test_batches_are_numbered_over_the_run_and_skipped_once() -> None:
    batches = _batches(4)
    batches.number, batches.skip = 9, 1
    assert [(batch.number, batch[0]) for batch in batches] == [(9, 3), (10, 6), (11, 9)]
    assert [(batch.number, batch[0]) for batch in batches][:2] == [(12, 0), (13, 3)]
    assert len(batches) == 4


def test_samples_depend_on_their_place_alone() -> None:
    class Draws:
        def __getitem__(self, index: int) -> tuple:
            import random

            import numpy as np

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


def test_dead_worker_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    assert finish(tmp_path / "run", workers=1, prepare=injectors.kill_worker) == 2
    line = (tmp_path / "run.error").read_text()
    assert "killed by signal" in line or "exited unexpectedly" in line
    assert "num_workers" in line and "\n" not in line


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_left_out_of_a_run(workers: int, tmp_path: Path) -> None:
    """The validation set holds the same ones, and does not go on without them."""
    prepare = partial(injectors.bad_samples, bad=2)
    assert finish(tmp_path / "run", workers=workers, prepare=prepare) == 2
    line = (tmp_path / "run.error").read_text()
    assert "noise://0" in line and "no such picture" in line and "Traceback" not in line
    lines = (tmp_path / "run" / "bad_images.txt").read_text().splitlines()
    assert {entry.split(":")[0] + ":" + entry.split(":")[1] for entry in lines} == {
        "noise://0",
        "noise://1",
    }
    samples = [name for line in told(tmp_path / "run") for name in line["samples"]]
    assert len(samples) == 12 and not {"noise://0", "noise://1"} & set(samples)


@pytest.mark.parametrize("workers", [0, 1])
def test_no_good_sample_ends_the_run(workers: int, tmp_path: Path) -> None:
    prepare = partial(injectors.bad_samples, bad=100)
    assert finish(tmp_path / "run", workers=workers, prepare=prepare) == 2
    line = (tmp_path / "run.error").read_text()
    assert ("in a row" in line or "which is more than" in line) and "Traceback" not in line


def test_error_of_a_worker_is_one_line() -> None:
    message = (
        "Caught InputError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        "last):\n  File x\ncare_mm.errors.InputError: image a.jpg: cut short\n"
    )
    with pytest.raises(InputError) as caught, _said_in_one_line():
        raise InputError(message)
    assert str(caught.value) == "image a.jpg: cut short"
    with pytest.raises(RuntimeError), _said_in_one_line():
        raise RuntimeError("something else")
    assert not issubclass(BadSample, InputError)


# The same run


@pytest.mark.parametrize("by_epoch", [True, False])
def test_same_seed_gives_the_same_weights_to_the_last_bit(by_epoch: bool, tmp_path: Path) -> None:
    for name in ("first", "second"):
        options = dict(by_epoch=by_epoch, rounds=2, workers=0 if name == "first" else 2)
        assert finish(tmp_path / name, **options, deterministic=True) == 0
    assert told(tmp_path / "first") == told(tmp_path / "second")
    last = [
        read_checkpoint((tmp_path / n / "last_checkpoint").read_text()) for n in ("first", "second")
    ]
    for key in ("state_dict", "ema_state_dict"):
        assert all(torch.equal(v, last[1][key][k]) for k, v in last[0][key].items())


def test_other_seed_gives_other_samples(tmp_path: Path) -> None:
    for seed in (1, 2):
        assert finish(tmp_path / str(seed), seed=seed, rounds=1) == 0
    first, second = told(tmp_path / "1"), told(tmp_path / "2")
    assert first[0]["pixels"] != second[0]["pixels"]


def test_augmentation_differs_from_epoch_to_epoch_with_workers(tmp_path: Path) -> None:
    """mmengine seeds its workers alike in every epoch."""
    assert finish(tmp_path / "run", workers=1, rounds=3) == 0
    pixels = [line["pixels"] for line in told(tmp_path / "run")]
    assert len(set(pixels)) == len(pixels) == 12


# Stopping


def test_sigterm_saves_too(tmp_path: Path) -> None:
    """What a scheduler sends before it kills."""
    process = start(tmp_path / "run", rounds=200)
    until = time.monotonic() + 90
    while not told(tmp_path / "run") and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 130
    done = len(told(tmp_path / "run"))
    last = read_checkpoint((tmp_path / "run" / "last_checkpoint").read_text())
    assert last["meta"]["iter"] == done
