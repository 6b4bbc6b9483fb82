"""Run lengths are decoded as in pycocotools, and invalid ones are refused."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from care_mm.datasets.check import instances


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_are_decoded_as_in_pycocotools(height, width, seed, share) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    rle = coco_mask.encode(np.asfortranarray(mask))
    counts = instances.decompress(rle["counts"].decode())
    pixels = np.repeat(np.arange(len(counts)) % 2, counts)
    assert np.array_equal(pixels, mask.ravel(order="F"))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_any_text_as_counts_is_invalid_or_adds_up(text: str) -> None:
    error = instances.rle_error(dict(size=[5, 7], counts=text), 5, 7)
    assert error or instances.decompress(text).sum() == 35
