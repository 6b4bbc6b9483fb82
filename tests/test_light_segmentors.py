"""The light segmentors: their cost, SegFormer's recipe, a step of each job, and CamVid's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from miniature import make_ade
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from one_step import train_one_step
from PIL import Image
from tool import TOOLS

from care_mm.complexity import Complexity, build, count
from care_mm.config import load_config
from care_mm.models.arch import ARCHS

CONFIGS = TOOLS.parent / "configs"
NAMES = ("semfpn", "segformer")
DATA = "train_dataloader.dataset"
CROP = {"model.data_preprocessor.size": (64, 64), f"{DATA}.pipeline.3.crop_size": (64, 64)}
# A block per stage for the small jobs: the full backbones are in the jobs on ADE20K.
SHALLOW = {"model.backbone.arch": dict(_delete_=True, base="s0", depths=(1, 1, 1, 1))}
JOBS = {
    "segformer_care_s0_ade20k": {f"{DATA}.pipeline.2.scale": (64, 64), **CROP},
    "segformer_care_s1_ade20k": {f"{DATA}.pipeline.2.scale": (64, 64), **CROP},
    "shapes/segformer_care_s0_shapes": {
        f"{DATA}.draw": dict(num_train=2, num_val=1, size=96, seed=3),
        **SHALLOW,
        **CROP,
    },
    "camvid/semfpn_care_s0_camvid": {**SHALLOW, **CROP},
    "camvid/segformer_care_s0_camvid": {**SHALLOW, **CROP},
}


def config_of(name: str, options: dict | None = None) -> Config:
    return load_config(CONFIGS / f"{name}.py", options or {})


def counted(name: str, shape: tuple[int, int]) -> Complexity:
    return count(build(config_of(name)), shape)


def make_camvid(root: Path) -> None:
    """Write noise in the layout of CamVid: 480 x 360 pixels, classes 0 to 10, and 255."""
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(2):
            image = random.integers(0, 256, (360, 480, 3), dtype=np.uint8)
            labels = random.integers(0, 12, (9, 12), dtype=np.uint8).repeat(40, 0).repeat(40, 1)
            labels[labels == 11] = 255
            Image.fromarray(image).save(root / "images" / split / f"{number}.jpg")
            Image.fromarray(labels).save(root / "masks" / split / f"{number}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "data" / "ade").mkdir(parents=True)
    make_ade(folder / "data" / "ade" / "ADEChallengeData2016", num_train=2, num_val=1)
    make_camvid(folder / "data" / "camvid")
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_a_job_trains_one_step(name: str, folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    model = train_one_step(CONFIGS / f"{name}.py", JOBS[name])
    if name.endswith("ade20k"):
        assert model.backbone.arch == ARCHS["s1" if "_s1_" in name else "s0"]


@pytest.mark.parametrize(("arch", "limit"), [("s0", 5.5), ("s1", 7.2)])
def test_the_head_is_light(arch: str, limit: float) -> None:
    """The limits are the whole model's GMACs at 512 x 512, with the 150 classes of ADE20K."""
    light = counted(f"segformer_care_{arch}_ade20k", (512, 512))
    assert light.sum().macs / 1e9 <= limit
    assert light.sum("decode_head").macs < 0.5 * light.sum("backbone.").macs
    heavy = counted(f"semfpn_care_{arch}_ade20k", (512, 512))
    assert light.sum("backbone.") == heavy.sum("backbone.")
    assert light.sum().macs < 0.27 * heavy.sum().macs


def test_the_products_of_the_head_are_the_arithmetic_by_hand() -> None:
    """Four projections at their own stride, then the fusion and the classes at stride 4."""
    head = counted("segformer_care_s0_ade20k", (64, 96)).sum("decode_head")
    pixels = [16 * 24, 8 * 12, 4 * 6, 2 * 3]
    projections = sum(n * c * 128 for n, c in zip(pixels, (32, 64, 128, 1024), strict=True))
    assert head.products == projections + pixels[0] * (4 * 128 * 128 + 128 * 150)


@pytest.mark.parametrize("arch", ["s0", "s1"])
def test_the_recipe_is_segformers(arch: str) -> None:
    config = config_of(f"segformer_care_{arch}_ade20k")
    assert config.model.backbone.init_cfg.checkpoint == f"checkpoints/care_{arch}_in1k.pth"
    assert config.train_cfg.max_iters == config.param_scheduler[-1].end == 160_000
    assert config.train_dataloader.batch_size * 8 == config.auto_scale_lr.base_batch_size == 16
    model = build(config)
    groups = build_optim_wrapper(model, config.optim_wrapper).optimizer.param_groups
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            group = of[id(parameter)]
            in_head = name.startswith("decode_head")
            assert group["lr"] == pytest.approx(6e-4 if in_head else 6e-5), (name, key)
            norm = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
            if not in_head:
                assert group["weight_decay"] == (0 if norm else 0.01), (name, key)


@pytest.mark.parametrize("job", ["shapes/{}_care_s0_shapes", "camvid/{}_care_s0_camvid"])
def test_both_segmentors_of_a_job_differ_in_neck_and_head_alone(job: str) -> None:
    one, other = (config_of(job.format(name)).to_dict() for name in NAMES)
    heads = [[c["model"].pop(part) for part in ("neck", "decode_head")] for c in (one, other)]
    assert one == other
    assert heads[0][1]["num_classes"] == heads[1][1]["num_classes"] == 11
    assert [head[1]["type"] for head in heads] == ["FPNHead", "SegformerHead"]


@pytest.mark.parametrize("name", NAMES)
def test_predictions_on_camvid_have_the_size_of_the_image(name, folder, monkeypatch) -> None:
    """360 is no multiple of 32: the image is resized for the model, and the result is back."""
    monkeypatch.chdir(folder)
    config = config_of(f"camvid/{name}_care_s0_camvid", SHALLOW)
    init_default_scope(config.default_scope)
    model = MODELS.build(config.model).eval()
    for split in ("val", "test"):
        dataset = DATASETS.build(config[f"{split}_dataloader"].dataset)
        assert len(dataset) == 2 and len(dataset.metainfo["classes"]) == 11
        sample = dataset[0]
        assert f"images/{split}/" in sample["data_samples"].img_path
        assert sample["inputs"].shape == (3, 384, 480)
        truth = sample["data_samples"].gt_sem_seg.data
        assert set(truth.unique().tolist()) <= {*range(11), 255}
        batch = {key: [value] for key, value in sample.items()}
        with torch.no_grad():
            (result,) = model.test_step(batch)
        assert result.pred_sem_seg.shape == truth.shape[-2:] == (360, 480)


def test_every_class_of_camvid_has_a_colour() -> None:
    metainfo = config_of("camvid/segformer_care_s0_camvid").metainfo
    colours = {tuple(colour) for colour in metainfo.palette}
    assert len(colours) == len(metainfo.palette) == len(metainfo.classes) == 11
