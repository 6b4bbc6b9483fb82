"""A swapped model, built and run once on a blank picture."""

from __future__ import annotations

import copy
import importlib

import torch
from mmengine.config import Config
from mmengine.structures import InstanceData

from care_mm.config import without_pretrained
from care_mm.errors import InputError
from care_mm.swap.probe import build

# What is tried until one works, with the sides of the picture. Random weights make some models
# stumble over their own predictions, and some need more than a few cells on every level.
ATTEMPTS = (("predict", 128), ("tensor", 128), ("predict", 512))


def try_model(config: Config) -> None:
    """Build the model, without weights, and run it on a blank picture.

    Raises:
        InputError: It does not build or run.
    """
    scope = config.default_scope
    model_cfg = without_pretrained(copy.deepcopy(config.model))
    if "data_preprocessor" not in model_cfg and "data_preprocessor" in config:
        model_cfg.data_preprocessor = config.data_preprocessor
    try:
        model = build(model_cfg, scope)
    except Exception as error:
        raise _refused(config, error) from error
    model.eval()
    proposals = not getattr(model, "with_rpn", True)
    first = None
    for mode, side in ATTEMPTS:
        try:
            with torch.no_grad():
                batch = _blank(scope, side, proposals)
                model(**model.data_preprocessor(batch, False), mode=mode)
        except Exception as error:
            first = first or error
        else:
            return
    raise _refused(config, first) from first


def _refused(config: Config, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:300]
    return InputError(
        f"{config.model.type} with CARE in it does not run ({type(error).__name__}: {reason})"
    )


def _blank(scope: str, side: int, proposals: bool) -> dict:
    """One grey picture, as a data loader would give it, if need be with a proposal (Fast R-CNN)."""
    structures = importlib.import_module(f"{scope}.structures")
    sample = (structures.DetDataSample if scope == "mmdet" else structures.SegDataSample)()
    sample.set_metainfo(
        dict(
            img_id=0,
            img_path="",
            img_shape=(side, side),
            ori_shape=(side, side),
            scale_factor=(1.0, 1.0),
            flip=False,
            border=torch.tensor([0, side, 0, side]).numpy(),  # CenterNet's
        )
    )
    if proposals and scope == "mmdet":
        box = torch.tensor([[0.0, 0.0, side / 2, side / 2]])
        sample.proposals = InstanceData(bboxes=box, scores=torch.ones(1))
    picture = torch.full((3, side, side), 128, dtype=torch.uint8)
    return {"inputs": [picture], "data_samples": [sample]}
