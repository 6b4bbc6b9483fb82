"""What the tests of data checks share: data sets that are well, and how a report is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config

from care_mm.datasets.check.config import check_config
from care_mm.datasets.check.findings import Findings
from care_mm.datasets.shapes.layouts import SEG_CLASSES
from care_mm.datasets.shapes.objects import OBJECTS

NUM_TRAIN, NUM_VAL = 6, 2
MASKED = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_mask=True)]


def coco(root: Path, split: str = "train", **changes) -> dict:
    return dict(
        type="CocoDataset",
        data_root=str(root / "coco"),
        ann_file=f"annotations/instances_{split}2017.json",
        data_prefix=dict(img=f"{split}2017/"),
        metainfo=dict(classes=OBJECTS),
        pipeline=MASKED,
        test_mode=split != "train",
        **changes,
    )


def ade(root: Path, **changes) -> dict:
    settings = dict(
        type="BaseSegDataset",
        data_root=str(root / "ade" / "ADEChallengeData2016"),
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        metainfo=dict(classes=SEG_CLASSES),
        reduce_zero_label=True,
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")],
    )
    return {**settings, **changes}


def folders(root: Path, split: str = "train", **changes) -> dict:
    settings = dict(type="CustomDataset", data_root=str(root / "imagenet"), data_prefix=split)
    return {**settings, **changes}


SCOPES = {"CocoDataset": "mmdet", "BaseSegDataset": "mmseg", "CustomDataset": "mmpretrain"}


def check(limit: int | None = None, scope: str = "", model: dict | None = None, **splits):
    """The findings on ``train=..., val=...``, each a dataset dict, by their titles."""
    any_of_them = next(iter(splits.values()))
    content = {f"{split}_dataloader": dict(dataset=dict(d)) for split, d in splits.items()}
    content["default_scope"] = scope or SCOPES[any_of_them["type"]]
    content["model"] = model or {}
    return {findings.title: findings for findings in check_config(Config(content), limit=limit)}


def said(findings: Findings) -> str:
    """The problems and notes, without the line that sums up."""
    return "\n".join(list(findings.lines())[1:])


def assert_named(findings: Findings, *texts: str, fatal: bool = True) -> None:
    """One line has all of the texts, and it is a problem or a note as it should be."""
    lines = [line for line in said(findings).splitlines() if all(text in line for text in texts)]
    assert len(lines) == 1, "\n".join(findings.lines())
    assert lines[0].startswith("  note: ") is not fatal


def edit(data: Path, change: Callable[[dict], object], split: str = "train") -> None:
    """Apply a change to the annotations of a split."""
    file = data / "coco" / "annotations" / f"instances_{split}2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
