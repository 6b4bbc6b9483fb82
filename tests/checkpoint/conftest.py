"""Fixtures of the tests that read checkpoints."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(params=["torch", "torch before 2.6"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read with torch's own allow-list, and with ours for torch < 2.6, which has none to extend."""
    if request.param != "torch":
        monkeypatch.setattr(torch, "__version__", "2.5.1")
        used = lambda _: pytest.fail("used")  # noqa: E731
        monkeypatch.setattr(torch.serialization, "safe_globals", used, raising=False)
    return request.param
