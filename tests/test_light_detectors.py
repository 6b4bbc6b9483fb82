"""The light detectors: cost, recipe, a step and a prediction of each job, and stage 2."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from miniature import make_coco
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from one_step import train_one_step
from PIL import Image
from pycocotools import mask as coco_mask
from tool import TOOLS

from care_mm.complexity import build, count
from care_mm.config import load_config
from care_mm.engine.hooks.guarded_pipeline import GuardedPipeline, recorded
from care_mm.engine.options import use_from_scratch
from care_mm.engine.run import train
from care_mm.models.arch import ARCHS

CONFIGS = TOOLS.parent / "configs"
NAMES = ("rtmdet", "rtmdet-ins")
DATA = "train_dataloader.dataset"
# A block per stage for the small jobs: the full backbones are in the jobs on COCO.
SHALLOW = {"model.backbone.arch": dict(_delete_=True, base="s0", depths=(1, 1, 1, 1))}
DRAWING = dict(num_train=2, num_val=1, size=96, seed=3)
DRAWN = {f"{DATA}.draw": DRAWING, "test_dataloader.dataset.draw": DRAWING, **SHALLOW}
MOSAIC = {
    f"{DATA}.pipeline.2.img_scale": (64, 64),
    f"{DATA}.pipeline.3.scale": (64, 64),
    f"{DATA}.pipeline.4.crop_size": (64, 64),
    f"{DATA}.pipeline.7.size": (64, 64),
    f"{DATA}.pipeline.8.img_scale": (64, 64),
}
# The drawn annotations are not all polygons.
BITMAPS = {f"{DATA}.pipeline.1.poly2mask": True}
JOBS = {
    **{f"rtmdet_care_{arch}_coco": MOSAIC for arch in ("s0", "s1")},
    **{f"rtmdet-ins_care_{arch}_coco": {**MOSAIC, **BITMAPS} for arch in ("s0", "s1")},
    **{f"shapes/{name}_care_s0_shapes": DRAWN for name in NAMES},
    **{f"nuclei/{name}_care_s0_nuclei": SHALLOW for name in (*NAMES, "maskrcnn")},
}


def config_of(name: str, options: dict | None = None) -> Config:
    return load_config(CONFIGS / f"{name}.py", options or {})


def make_nuclei(root: Path) -> None:
    """Write discs on noise, with masks as RLE, in the layout of the configs."""
    random = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    for split in ("train", "val"):
        images, annotations = [], []
        for number in range(2):
            name = f"{split}{number}.jpg"
            image = random.integers(0, 60, (256, 320, 3), dtype=np.uint8)
            for x in range(20, 320, 40):
                for y in range(20, 256, 40):
                    rows, columns = np.ogrid[:256, :320]
                    disc = (rows - y) ** 2 + (columns - x) ** 2 < 144
                    image[disc] += 120
                    rle = coco_mask.encode(np.asfortranarray(disc.astype(np.uint8)))
                    box = coco_mask.toBbox(rle).tolist()
                    area = int(coco_mask.area(rle))
                    rle["counts"] = rle["counts"].decode()
                    annotations.append(
                        dict(
                            id=len(annotations) + 1,
                            image_id=number + 1,
                            category_id=1,
                            bbox=box,
                            area=area,
                            iscrowd=0,
                            segmentation=rle,
                        )
                    )
            Image.fromarray(image).save(root / "images" / name)
            images.append(dict(id=number + 1, file_name=name, width=320, height=256))
        categories = [dict(id=1, name="nucleus")]
        content = dict(images=images, annotations=annotations, categories=categories)
        (root / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "data").mkdir()
    make_coco(folder / "data" / "coco", num_train=6, num_val=1)
    make_nuclei(folder / "data" / "nuclei")
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_a_job_trains_one_step_and_predicts(name: str, folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    model = train_one_step(CONFIGS / f"{name}.py", JOBS[name])
    if name.endswith("coco"):
        assert model.backbone.arch == ARCHS["s1" if "_s1_" in name else "s0"]
    config = config_of(name, JOBS[name])
    model.test_cfg.score_thr = 0.0
    dataset = DATASETS.build(config.test_dataloader.dataset)
    batch = {key: [value] for key, value in dataset[0].items()}
    with torch.no_grad():
        (result,) = model.eval().test_step(batch)
    found = result.pred_instances
    assert torch.isfinite(found.bboxes).all() and torch.isfinite(found.scores).all()
    if "rtmdet" in name:
        assert len(found)
        assert ("masks" in found) is ("rtmdet-ins" in name)
    if "masks" in found:
        assert found.masks.shape == (len(found), *result.ori_shape)


@pytest.mark.parametrize(("name", "limit"), [("rtmdet", 7.0), ("rtmdet-ins", 9.0)])
def test_neck_and_head_cost_less_than_half_of_the_backbone(name: str, limit: float) -> None:
    """The limits are the whole model's GMACs at 640 x 640, with the 80 classes of COCO."""
    light = count(build(config_of(f"{name}_care_s0_coco")), (640, 640))
    assert light.sum().macs / 1e9 <= limit
    rest = light.sum("neck").macs + light.sum("bbox_head").macs
    assert 0 < rest == light.sum().macs - light.sum("backbone.").macs
    assert rest < 0.5 * light.sum("backbone.").macs


def test_the_products_of_the_box_head_are_the_arithmetic_by_hand() -> None:
    """Two depthwise-separable layers in both branches and the predictions, for every pixel."""
    head = count(build(config_of("rtmdet_care_s0_coco")), (64, 96)).sum("bbox_head")
    pixels = 8 * 12 + 4 * 6 + 2 * 3
    assert head.products == pixels * (2 * 2 * (9 * 96 + 96 * 96) + 96 * (80 + 4))


@pytest.mark.parametrize("arch", ["s0", "s1"])
@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_is_rtmdets(name: str, arch: str) -> None:
    config = config_of(f"{name}_care_{arch}_coco")
    assert config.model.backbone.init_cfg.checkpoint == f"checkpoints/care_{arch}_in1k.pth"
    assert config.train_cfg.max_epochs == config.param_scheduler[1].end == 300
    assert config.train_cfg.dynamic_intervals == [(280, 1)]
    assert config.train_dataloader.batch_size * 8 == config.auto_scale_lr.base_batch_size == 256
    ema, switch, _ = config.custom_hooks
    assert (ema.type, ema.ema_type, ema.momentum) == ("EMAHook", "ExpMomentumEMA", 2e-4)
    assert switch.switch_epoch == 280
    mixed = {"CachedMosaic", "CachedMixUp"}
    stages = [config.train_dataloader.dataset.pipeline, switch.switch_pipeline]
    assert [mixed & {step.type for step in stage} for stage in stages] == [mixed, set()]
    model = build(config)
    groups = build_optim_wrapper(model, config.optim_wrapper).optimizer.param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for module in model.modules():
        is_norm = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for key, parameter in module.named_parameters(recurse=False):
            assert decay[id(parameter)] == (0 if is_norm or key == "bias" else 0.05)


def test_the_detectors_of_nuclei_have_the_same_data_and_schedule() -> None:
    parts = [
        config_of(f"nuclei/{name}_care_s0_nuclei").to_dict() for name in ("maskrcnn", "rtmdet-ins")
    ]
    for key in ("train_dataloader", "test_dataloader", "test_evaluator", "param_scheduler"):
        assert parts[0][key] == parts[1][key]
    boxes, masks = (config_of(f"nuclei/{name}_care_s0_nuclei") for name in NAMES)
    assert boxes.param_scheduler == masks.param_scheduler
    assert boxes.test_dataloader == masks.test_dataloader
    steps = [[step.type for step in c.train_dataloader.dataset.pipeline] for c in (boxes, masks)]
    assert steps[0] == steps[1]


def test_stage_2_is_guarded_and_resumed_with_the_ema(tmp_path: Path, monkeypatch) -> None:
    """The pipeline is switched after epoch 1, and a truncated image is skipped after that."""
    monkeypatch.chdir(tmp_path)
    make_coco(Path("data/coco").absolute(), num_train=6, num_val=1)
    options = {
        **SHALLOW,
        **MOSAIC,
        **BITMAPS,
        f"{DATA}.pipeline.2.max_cached_images": 4,
        f"{DATA}.filter_cfg": None,
        "train_dataloader.batch_size": 2,
        "train_dataloader.num_workers": 1,
        "val_dataloader.num_workers": 0,
        "train_cfg.max_epochs": 2,
        "train_cfg.val_interval": 10,
        "train_cfg.dynamic_intervals": None,
        "default_hooks.checkpoint.interval": 1,
        "custom_hooks.1.switch_epoch": 1,
        "custom_hooks.1.switch_pipeline.2.scale": (64, 64),
        "custom_hooks.1.switch_pipeline.3.crop_size": (64, 64),
        "custom_hooks.1.switch_pipeline.1.poly2mask": True,
        "custom_hooks.1.switch_pipeline.7.size": (64, 64),
    }

    def run(resume: str | None = None) -> Runner:
        config = config_of("rtmdet-ins_care_s0_coco", options)
        config.work_dir = "run"
        config.custom_hooks.pop()  # the report
        use_from_scratch(config)
        return train(config, resume=resume)

    runner = run()
    pipeline = runner.train_dataloader.dataset.pipeline
    assert isinstance(pipeline, GuardedPipeline)
    types = [type(step).__name__ for step in pipeline.transforms]
    assert "CachedMosaic" not in types and "RandomCrop" in types
    last = torch.load("run/epoch_2.pth", map_location="cpu", weights_only=False)
    assert last["ema_state_dict"]["steps"] == 6
    assert not Path("run/bad_images.txt").exists()
    image = sorted(Path("data/coco/train2017").iterdir())[0]
    image.write_bytes(image.read_bytes()[:-200])
    options["train_cfg.max_epochs"] = 3
    runner = run(resume="auto")
    assert runner.iter == 9
    (line,) = recorded(Path("run/bad_images.txt"))
    assert image.name in line
