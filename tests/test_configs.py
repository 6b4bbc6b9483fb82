"""The nine configs of the paper: each builds a model and trains one step on miniature data."""

from __future__ import annotations

from pathlib import Path

import pytest
from miniature import make_ade, make_coco, make_imagenet
from one_step import train_one_step
from tool import TOOLS

from care_mm.models.arch import ARCHS

CONFIGS = TOOLS.parent / "configs"
CROP = "train_dataloader.dataset.pipeline.1.transforms"
# 64 pixels and few proposals; no layer is narrower.
TINY = {
    "maskrcnn_care_{}_coco": {
        "train_dataloader.dataset.pipeline.2.scale": (64, 64),
        "model.train_cfg.rpn_proposal.max_per_img": 50,
        "model.train_cfg.rcnn.sampler.num": 16,
    },
    "semfpn_care_{}_ade20k": {
        "train_dataloader.dataset.pipeline.2.scale": (64, 64),
        "train_dataloader.dataset.pipeline.3.crop_size": (64, 64),
        "model.data_preprocessor.size": (64, 64),
    },
    "care_{}_imagenet": {
        f"{CROP}.0.0.scale": 64,
        f"{CROP}.1.0.scale": 64,
        "model.teacher": None,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "data" / "ade").mkdir(parents=True)
    make_coco(folder / "data" / "coco", num_train=4, num_val=1)
    make_ade(folder / "data" / "ade" / "ADEChallengeData2016", num_train=4, num_val=1)
    make_imagenet(folder / "data" / "imagenet", num_train=4, num_val=1)
    return folder


@pytest.mark.parametrize("arch", ["s0", "s1", "s2"])
@pytest.mark.parametrize("name", TINY)
def test_a_config_trains_one_step(name: str, arch: str, folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    model = train_one_step(CONFIGS / f"{name.format(arch)}.py", TINY[name])
    assert model.backbone.arch == ARCHS[arch]
