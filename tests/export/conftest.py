"""A small model of each task with well-conditioned weights, as a config and a checkpoint.

At initialisation gamma is 1e-6 and hides nearly every error; see `golden.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import golden
import pytest
import tool
import torch
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from care_mm.config import load_config, without_pretrained
from care_mm.datasets.shapes.layouts import SEG_CLASSES, scene_at
from care_mm.datasets.shapes.objects import OBJECTS

CONFIGS = Path(__file__).parents[2] / "configs" / "shapes"
JOBS = {
    "classifier": "care_s0_shapes.py",
    "segmentor": "semfpn_care_s0_shapes.py",
    "detector": "maskrcnn_care_s0_shapes.py",
}
# One block a stage: all kinds of them are there, and a converter is done in seconds.
SMALL = "model = dict(backbone=dict(arch=dict(_delete_=True, base='s0', depths=(1, 1, 1, 1))))"
# Else boxes were of no size and scores 0 or 1.
DAMPED = {"fc_cls": 0.3, "fc_reg": 0.05, "rpn_reg": 0.05, "rpn_cls": 0.1, "conv_logits": 0.5}
Job = tuple[Path, Path]


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Job]:
    """``job('detector')`` -> config file and checkpoint."""
    made: dict[str, Job] = {}

    def make(task: str) -> Job:
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            config = folder / f"{task}.py"
            config.write_text(f"_base_ = {str(CONFIGS / JOBS[task])!r}\n{SMALL}\n")
            settings = load_config(config)
            init_default_scope(settings.default_scope)
            model = MODELS.build(without_pretrained(settings.model))
            for key, value in model.state_dict().items():
                scale = DAMPED.get(key.split(".")[-2], 1)
                value.copy_(scale * torch.as_tensor(golden.draw(key, value.shape)))
            classes = SEG_CLASSES if task == "segmentor" else OBJECTS
            meta = {"dataset_meta": {"classes": tuple(classes)}}
            torch.save({"state_dict": model.state_dict(), "meta": meta}, folder / "model.pth")
            made[task] = config, folder / "model.pth"
        return made[task]

    return make


@pytest.fixture(scope="session")
def exported(
    job: Callable[[str], Job], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """``exported('detector', 'x.onnx', '--shape', ...)`` -> the file, made once by the command."""
    folder = tmp_path_factory.mktemp("exported")
    formats = {".onnx": "onnx", ".xml": "openvino", ".pte": "executorch", ".mlpackage": "coreml"}

    def make(task: str, name: str, *options: object) -> Path:
        path = folder / name
        if not path.exists():
            where = ("--format", formats[path.suffix], "--out", path)
            tool.call("export", *job(task), *where, *options)
        return path

    return make


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawing that is not square."""
    path = tmp_path_factory.mktemp("picture") / "drawn.png"
    Image.fromarray(scene_at("val", 3, 192, seed=1).image).resize((192, 131)).save(path)
    return path
