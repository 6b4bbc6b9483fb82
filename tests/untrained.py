"""Checkpoints with random weights for the drawn jobs, enough to run a command."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.registry import MODELS, init_default_scope
from tool import TOOLS

from care_mm.config import load_config

CONFIGS = {
    task: TOOLS.parent / "configs" / "shapes" / f"{name}.py"
    for task, name in (
        ("detection", "maskrcnn_care_s0_shapes"),
        ("segmentation", "semfpn_care_s0_shapes"),
        ("classification", "care_s0_shapes"),
    )
}


def write_checkpoint(task: str, folder: Path) -> Path:
    """Write the checkpoint of a task; the weights are always the same."""
    config = load_config(CONFIGS[task])
    init_default_scope(config.default_scope)
    torch.manual_seed(0)
    if task == "classification":
        config.model.teacher = None
    model = MODELS.build(config.model)
    model.init_weights()
    classes = (config.get("metainfo") or {}).get("classes") or config.classes
    file = folder / f"{task}.pth"
    meta = {"dataset_meta": {"classes": tuple(classes)}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, file)
    return file
