"""Shared by the tests of data checks: intact data sets, and assertions on reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config

from care_mm.datasets.check import check_config
from care_mm.datasets.check.findings import Findings
from care_mm.datasets.shapes import OBJECTS, SEG_CLASSES

NUM_TRAIN, NUM_VAL = 6, 2
WITH_MASKS = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_mask=True)]


def coco(root: Path, split: str = "train", **changes) -> dict:
    return dict(
        type="CocoDataset",
        data_root=str(root / "coco"),
        ann_file=f"annotations/instances_{split}2017.json",
        data_prefix=dict(img=f"{split}2017/"),
        metainfo=dict(classes=OBJECTS),
        pipeline=WITH_MASKS,
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
    """Return the findings on ``train=..., val=...``, each a dataset dict, by their titles."""
    first = next(iter(splits.values()))
    content = {f"{split}_dataloader": dict(dataset=dict(d)) for split, d in splits.items()}
    content["default_scope"] = scope or SCOPES[first["type"]]
    content["model"] = model or {}
    return {findings.title: findings for findings in check_config(Config(content), limit=limit)}


def details(findings: Findings) -> str:
    """Return the problems and notes without the summary line."""
    return "\n".join(list(findings.lines())[1:])


def assert_named(findings: Findings, *texts: str, is_note: bool = False) -> None:
    """Assert that exactly one line has all of the texts, and that it is a problem or a note."""
    lines = [line for line in details(findings).splitlines() if all(t in line for t in texts)]
    assert len(lines) == 1, "\n".join(findings.lines())
    assert lines[0].startswith("  note: ") is is_note


def edit(data: Path, change: Callable[[dict], object], split: str = "train") -> None:
    """Apply a change to the annotations of a split."""
    file = data / "coco" / "annotations" / f"instances_{split}2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
