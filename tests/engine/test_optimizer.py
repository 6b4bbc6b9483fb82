"""FusedAdamW takes the steps of AdamW, fused if torch can."""

from __future__ import annotations

import torch
from mmengine.registry import OPTIMIZERS
from torch import nn

from care_mm.engine.optimizer import FUSES_ON_CPU, FusedAdamW


def test_steps_equal_those_of_adamw() -> None:
    models = []
    for kind in (FusedAdamW, torch.optim.AdamW):
        torch.manual_seed(0)
        model = nn.Linear(5, 3).double()
        optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.05)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(2, 5, dtype=torch.float64)).square().sum().backward()
            optimizer.step()
        models.append(model)
    fused, plain = models
    torch.testing.assert_close(fused.weight, plain.weight, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fused.bias, plain.bias, rtol=1e-12, atol=1e-12)


def test_groups_with_equal_settings_take_one_step_and_stay_apart() -> None:
    """Each parameter has its group, as with mmengine's paramwise_cfg, and betas are a list."""
    models, optimizers = [], []
    for kind in (FusedAdamW, torch.optim.AdamW):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))).double()
        groups = [
            dict(params=[parameter], lr=0.1 if parameter.ndim > 1 else 0.02, betas=[0.8, 0.9])
            for parameter in model.parameters()
        ]
        optimizer = kind(groups, weight_decay=0.05)
        for number in range(4):
            optimizer.zero_grad()
            model(torch.ones(2, 4, dtype=torch.float64)).square().sum().backward()
            optimizer.param_groups[0]["lr"] = 0.1 / (number + 1)  # as a scheduler would
            optimizer.step()
        models.append(model)
        optimizers.append(optimizer)
    for ours, plain in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    states = [optimizer.state_dict() for optimizer in optimizers]
    assert [group["params"] for group in states[0]["param_groups"]] == [[i] for i in range(6)]
    assert states[0]["state"].keys() == states[1]["state"].keys()


def test_a_config_builds_it_fused_if_torch_can() -> None:
    settings = dict(type="FusedAdamW", params=[{"params": [nn.Parameter(torch.ones(2))]}], lr=1e-3)
    optimizer = OPTIMIZERS.build(settings)
    assert optimizer.param_groups[0]["fused"] is FUSES_ON_CPU
