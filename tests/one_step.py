"""One step of training with a config, and what it has to change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import nn

from care_mm.config import load_config, without_pretrained


def train_one_step(path: Path, options: Mapping[str, Any]) -> nn.Module:
    """Train one step on the config's own data, and assert that all parts learn.

    Args:
        path: The config file; its data are looked up from the working directory.
        options: Keys and values that differ, as in ``--cfg-options``.

    Returns:
        The model after the step, in training mode.
    """
    config = load_config(path, dict(options))
    init_default_scope(config.default_scope)
    torch.manual_seed(0)
    np.random.seed(0)
    model = MODELS.build(without_pretrained(config.model))
    model.init_weights()
    model.train()
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    samples = [dataset[i] for i in range(2)]
    batch = {key: [sample[key] for sample in samples] for key in samples[0]}
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    data = model.data_preprocessor(batch, training=True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    assert torch.isfinite(loss)
    wrapper.backward(loss)
    without = [key for key, value in model.named_parameters() if value.grad is None]
    assert not without, "parameters without a gradient hang DDP"
    wrapper.step()
    moved = [key for key, value in model.named_parameters() if not torch.equal(value, before[key])]
    assert any(key.startswith("backbone.stem.") for key in moved)
    assert any("head" in key for key in moved)
    return model
