"""The half precisions, for tests on the CPU."""

from __future__ import annotations

import pytest
import torch
from mmengine.utils import digit_version

FLOAT16 = pytest.param(
    torch.float16,
    marks=pytest.mark.skipif(
        digit_version(torch.__version__) < digit_version("2.4"),
        reason="torch 2.1 computes no float16 on the CPU",
    ),
)
HALF = (FLOAT16, torch.bfloat16)
