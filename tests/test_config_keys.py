"""An option does something: keys that nothing reads are refused, with the nearest known key."""

from __future__ import annotations

from pathlib import Path

import pytest

from care_mm.config import load_config
from care_mm.errors import InputError

CONFIGS = Path(__file__).parents[1] / "configs"
DETECTOR = CONFIGS / "shapes" / "maskrcnn_care_s0_shapes.py"
SEGMENTOR = CONFIGS / "shapes" / "semfpn_care_s0_shapes.py"
CLASSIFIER = CONFIGS / "shapes" / "care_s0_shapes.py"


@pytest.mark.parametrize(
    ("config", "key", "hint"),
    [
        (DETECTOR, "default_hooks.checkpoint.save_bst", "save_best"),
        (DETECTOR, "default_hooks.loger.interval", "logger"),
        (DETECTOR, "custom_hooks.0.num_image", "num_images"),
        (DETECTOR, "randomness.sed", "seed"),
        (DETECTOR, "env_cfg.cudnn_benchmrk", "cudnn_benchmark"),
        (DETECTOR, "auto_scale_lr.enabel", "enable"),
        (DETECTOR, "model.test_cfg.rcnn.score_thres", "score_thr"),
        (DETECTOR, "model.roi_head.bbox_head.num_class", "num_classes"),
        (DETECTOR, "model.rpn_head.anchor_generator.scale", "scales"),
        (DETECTOR, "train_dataloader.dataset.filter_cfg.filter_empty_gtt", "filter_empty_gt"),
        (DETECTOR, "train_dataloader.nr_workers", "num_workers"),
        (DETECTOR, "optim_wrapper.paramwise_cfg.norm_decay_mul", "norm_decay_mult"),
        (DETECTOR, "param_scheduler.1.ende", "end"),
        (DETECTOR, "val_evaluator.classwize", "classwise"),
        (SEGMENTOR, "model.decode_head.num_clases", "num_classes"),
        (SEGMENTOR, "train_cfg.max_iter", "max_iters"),
        (SEGMENTOR, "val_evaluator.iou_metric", "iou_metrics"),
        (CLASSIFIER, "model.backbone.drop_path_rat", "drop_path_rate"),
        (CLASSIFIER, "optim_wrapper.optimizer.weight_decy", "weight_decay"),
    ],
)
def test_a_key_that_nothing_reads_is_refused_with_the_nearest_one(
    config: Path, key: str, hint: str
) -> None:
    with pytest.raises(
        InputError, match=rf"--cfg-options {key}: .*did you mean '{hint}'"
    ) as caught:
        load_config(config, {key: 1})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("load_from", "w.pth"),
        ("work_dir", "my runs"),
        ("auto_scale_lr.base_batch_size", 16),
        ("randomness.seed", 1),
        ("default_hooks.checkpoint.save_best", "auto"),
        ("default_hooks.checkpoint.out_dir", "elsewhere"),
        ("default_hooks.mine.type", "IterTimerHook"),
        ("default_hooks.mine", dict(type="IterTimerHook")),
        ("env_cfg.dist_cfg.timeout", 60),
        ("custom_hooks.0.num_images", 2),
        ("model.backbone.with_cp", True),
        ("model.test_cfg.rcnn.min_bbox_size", 2),
        ("model.train_cfg.rcnn.sampler.num", 64),
        ("optim_wrapper.accumulative_counts", 2),
        ("optim_wrapper.clip_grad.norm_type", 1),
        ("optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult", 0.1),
        ("param_scheduler.1.end", 3),
        ("train_cfg.val_begin", 2),
        ("train_dataloader.pin_memory", True),
        ("train_dataloader.dataset.filter_cfg.min_size", 4),
        ("val_dataloader.dataset.indices", 3),
        ("test_evaluator.format_only", True),
        ("test_evaluator.outfile_prefix", "my out/results"),
        ("visualizer.line_width", 2),
    ],
)
def test_a_key_that_is_read_is_accepted(key: str, value: object) -> None:
    node = load_config(DETECTOR, {key: value})
    for part in key.split("."):
        node = node[int(part)] if part.isdigit() else node[part]
    assert node == value


@pytest.mark.parametrize(
    ("config", "key", "place"),
    [
        (DETECTOR, "max_epochs", "train_cfg.max_epochs"),
        (DETECTOR, "num_classes", "model.roi_head.bbox_head.num_classes"),
        (SEGMENTOR, "vis_backends", "visualizer.vis_backends"),
    ],
)
def test_a_variable_names_the_key_that_it_set(config: Path, key: str, place: str) -> None:
    with pytest.raises(InputError, match=f"used when the file was read; did you mean {place}"):
        load_config(config, {key: 1})


@pytest.mark.parametrize("key", ["optim_wrapper.optimizer.lr", "train_dataloader.batch_size"])
def test_text_does_not_replace_a_number(key: str) -> None:
    with pytest.raises(InputError, match=f"--cfg-options {key}=1e-3x: is text in place of"):
        load_config(DETECTOR, {key: "1e-3x"})


@pytest.mark.parametrize(
    ("name", "meant"),
    [("optim_wraper", "optim_wrapper"), ("val_evaluater", "val_evaluator"), ("modle", "model")],
)
def test_a_misspelt_name_in_a_file_is_refused(tmp_path: Path, name: str, meant: str) -> None:
    file = tmp_path / "config.py"
    file.write_text(f"_base_ = {str(DETECTOR)!r}\n{name} = dict(a=1)\n")
    with pytest.raises(InputError, match=f"nothing reads '{name}'; did you mean '{meant}'"):
        load_config(file)


def test_variables_of_a_file_are_accepted(tmp_path: Path) -> None:
    names = ("data_root", "img_norm", "train_pipeline", "test_pipeline", "dataset", "max_epochs")
    file = tmp_path / "config.py"
    lines = "\n".join(f"{name} = 1" for name in (*names, "backend_args", "albu_transforms"))
    file.write_text(f"_base_ = {str(DETECTOR)!r}\n{lines}\n")
    assert load_config(file).img_norm == 1
