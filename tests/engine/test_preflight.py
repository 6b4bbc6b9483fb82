"""Missing files are named before anything is built, for every layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config
from tool import TOOLS

from care_mm.config import load_config
from care_mm.datasets.paths import paths_of
from care_mm.engine.preflight import check_data, check_weights
from care_mm.errors import InputError

CONFIGS = TOOLS.parent / "configs"
LAYOUTS = {
    "maskrcnn_care_s0_coco": {
        "train": ["data/coco/annotations/instances_train2017.json", "data/coco/train2017/"],
        "val": ["data/coco/annotations/instances_val2017.json", "data/coco/val2017/"],
    },
    "semfpn_care_s0_ade20k": {
        split: [
            f"data/ade/ADEChallengeData2016/images/{name}",
            f"data/ade/ADEChallengeData2016/annotations/{name}",
        ]
        for split, name in (("train", "training"), ("val", "validation"))
    },
    "care_s0_imagenet": {"train": ["data/imagenet/train"], "val": ["data/imagenet/val"]},
}
PARTS = [
    (config, split, path)
    for config, splits in LAYOUTS.items()
    for split, paths in splits.items()
    for path in paths
]


@pytest.mark.parametrize(("config", "split", "missing"), PARTS)
def test_every_missing_part_of_a_layout_is_named(
    config: str, split: str, missing: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for paths in LAYOUTS[config].values():
        for path in paths:
            if path == missing:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            elif path.endswith(".json"):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).touch()
            else:
                Path(path).mkdir(parents=True, exist_ok=True)
    content = load_config(CONFIGS / f"{config}.py")
    with pytest.raises(InputError) as caught:
        check_data(content, ("train", "val"))
    message = str(caught.value)
    assert message.startswith(f"{split} data: {missing.rstrip('/')} does not exist")
    assert "docs/data.md" in message and "\n" not in message


@pytest.mark.parametrize(
    ("dataset", "paths"),
    [
        (dict(type="ImageNet", data_root="a", split="val"), ["a/val"]),
        (dict(type="mmpretrain.ImageNet", data_root="a", split="val"), ["a/val"]),
        (dict(type="ImageNet", data_root="a", split="val", data_prefix="b"), ["a/b"]),
        (dict(type="CustomDataset", data_root="a", data_prefix="b"), ["a/b"]),
        (dict(type="CustomDataset", data_root="a", ann_file="b.txt"), ["a/b.txt"]),
        (dict(type="CustomDataset", data_root="a"), ["a"]),
        (dict(type="Flowers102", data_root="a", split="val"), ["a"]),
        (dict(data_root="a", data_prefix=dict(img_path="b", seg_map_path="c")), ["a/b", "a/c"]),
        (dict(ann_file="x.json", data_prefix=dict(img="")), ["x.json"]),
        (dict(data_root="s3://bucket/a", data_prefix=dict(img="b")), []),
        (dict(data_root="a", ann_file="https://host/x.json"), []),
        (dict(type="Anything"), []),
    ],
)
def test_the_paths_that_a_dataset_names(dataset: dict, paths: list[str]) -> None:
    assert [str(path) for path in paths_of(dataset)] == paths


def test_missing_weights_are_named_with_the_alternative(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(CONFIGS / "semfpn_care_s1_ade20k.py")
    with pytest.raises(InputError, match=r"checkpoints/care_s1_in1k\.pth .*--from-scratch"):
        check_weights(config)


def test_missing_weights_of_a_teacher_are_named(tmp_path: Path) -> None:
    file = tmp_path / "teacher.pth"
    config = Config(
        dict(
            model=dict(
                type="CAREClassifier",
                teacher=dict(type="TimmClassifier"),
                teacher_checkpoint=str(file),
            )
        )
    )
    with pytest.raises(InputError, match=r"teacher\.pth: no such file.*model\.teacher=None"):
        check_weights(config)
    file.touch()
    check_weights(config)
    config.model.teacher_checkpoint = "https://host/teacher.pth"
    check_weights(config)
    config.model.teacher_checkpoint = None
    check_weights(config)
