"""Errors of libraries that bad input causes reach the user as one line."""

from __future__ import annotations

import pytest
import torch

from care_mm import CARETransformer
from care_mm.engine.hooks.guarded_pipeline import BadSample
from care_mm.errors import InputError, explained


def test_one_value_for_a_batch_norm_is_named() -> None:
    """A single image of 32 pixels is one pixel in stage 4, which has no variance."""
    model = CARETransformer("s0", out_indices=(3,)).train()
    with pytest.raises(InputError, match=r"larger images.*norm_eval=True"), explained():
        model(torch.randn(1, 3, 32, 32))


def test_error_of_a_worker_is_one_line() -> None:
    message = (
        "Caught InputError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        "last):\n  File x\ncare_mm.errors.InputError: image a.jpg: cut short\n"
    )
    with pytest.raises(InputError) as caught, explained():
        raise InputError(message)
    assert str(caught.value) == "image a.jpg: cut short"
    with pytest.raises(RuntimeError), explained():
        raise RuntimeError("something else")
    assert not issubclass(BadSample, InputError)
