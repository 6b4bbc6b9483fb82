"""A small model of each task with well-conditioned weights, as a config and a checkpoint.

At initialisation gamma is 1e-6 and hides nearly every error; see `golden.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import golden
import pytest
import tool
import torch
from filelock import FileLock
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from care_mm.config import load_config, without_pretrained
from care_mm.datasets.shapes import SEG_CLASSES, scene_at
from care_mm.datasets.shapes.objects import OBJECTS
from care_mm.export.runtimes import TARGETS

CONFIGS = Path(__file__).parents[2] / "configs" / "shapes"
JOBS = {
    "classifier": "care_s0_shapes.py",
    "segmentor": "semfpn_care_s0_shapes.py",
    "light_segmentor": "segformer_care_s0_shapes.py",
    "detector": "maskrcnn_care_s0_shapes.py",
}
# One block per stage has all kinds of blocks, and converts in seconds.
SMALL = "model = dict(backbone=dict(arch=dict(_delete_=True, base='s0', depths=(1, 1, 1, 1))))"
# Without damping, boxes would be empty and scores 0 or 1.
DAMPED = {"fc_cls": 0.3, "fc_reg": 0.05, "rpn_reg": 0.05, "rpn_cls": 0.1, "conv_logits": 0.5}
Job = tuple[Path, Path]
MakeJob, MakeFile = Callable[[str], Job], Callable[..., Path]


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
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
            classes = SEG_CLASSES if "segmentor" in task else OBJECTS
            meta = {"dataset_meta": {"classes": tuple(classes)}}
            torch.save({"state_dict": model.state_dict(), "meta": meta}, folder / "model.pth")
            made[task] = config, folder / "model.pth"
        return made[task]

    return make


@pytest.fixture(scope="session")
def exported(job: MakeJob, tmp_path_factory: pytest.TempPathFactory) -> MakeFile:
    """``exported('detector', 'x.onnx', '--shape', ...)`` -> the file, made once by the command.

    The processes of one run of the tests share their files.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    formats = {target.suffix: target.name for target in TARGETS.values()}

    def make(task: str, name: str, *options: object) -> Path:
        # A folder for each model, and for each format: OpenVINO and ncnn both write a .bin file.
        folder = root / "exported" / task / Path(name).suffix[1:]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        with FileLock(folder / f"{name}.lock"):
            if not path.exists():
                out = ("--format", formats[path.suffix], "--out", path)
                tool.call("export", *job(task), *out, *options)
        return path

    return make


@pytest.fixture(scope="session")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn image that is not square."""
    path = tmp_path_factory.mktemp("images") / "drawn.png"
    Image.fromarray(scene_at("val", 3, 192, seed=1).image).resize((192, 131)).save(path)
    return path
