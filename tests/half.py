"""The half precisions, for tests on the CPU."""

from __future__ import annotations

import pytest
import torch

from care_mm.versions import numbers

FLOAT16 = pytest.param(
    torch.float16,
    marks=pytest.mark.skipif(
        numbers(torch.__version__) < (2, 4), reason="torch 2.1 computes no float16 on the CPU"
    ),
)
HALF = (FLOAT16, torch.bfloat16)
