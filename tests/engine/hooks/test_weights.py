"""Weights that fit only part of the model are refused, or listed if that is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner
from tiny_job import settings

from care_mm.engine.hooks import ensure_guards
from care_mm.errors import InputError


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape", "nan"])
def test_weights_that_fit_only_part_of_the_model(damage: str, allow: bool, tmp_path: Path) -> None:
    config = settings(tmp_path / "run", rounds=1)
    ensure_guards(config)
    runner = Runner.from_cfg(config)
    state = {key: value.clone() for key, value in runner.model.state_dict().items()}
    if damage == "missing":
        del state["head.weight"]
    elif damage == "unexpected":
        state["neck.weight"] = torch.zeros(1)
    elif damage == "shape":
        state["head.weight"] = torch.zeros(7, 3)
    else:
        state["head.weight"].fill_(float("nan"))
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    config.load_from = str(tmp_path / "weights.pth")
    config.experiment_name += "again"
    config.default_hooks.weights.allow_partial = allow
    runner = Runner.from_cfg(config)
    if allow and damage != "nan":
        runner.train()
        return
    with pytest.raises(InputError, match=r"weights.pth") as caught:
        runner.train()
    assert ("neck.weight" if damage == "unexpected" else "head.weight") in str(caught.value)
