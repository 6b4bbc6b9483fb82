"""The check fits the type of the data set; data sets that cannot be built are named."""

from __future__ import annotations

from pathlib import Path

from checking import NUM_TRAIN, NUM_VAL, assert_named, check, coco


def test_shapes_are_checked_once_they_are_drawn(drawn: Path, tmp_path: Path) -> None:
    draw = dict(num_train=NUM_TRAIN, num_val=NUM_VAL, size=96)
    shapes = {**coco(drawn), "type": "Shapes", "of": "CocoDataset", "draw": draw}
    assert "6 images" in next(check(train=shapes, scope="mmdet")["train"].lines())
    elsewhere = {**shapes, "data_root": str(tmp_path / "new" / "coco")}
    findings = check(train=elsewhere, scope="mmdet")["train"]
    assert "will be drawn" in next(findings.lines()) and not findings.problems
    assert not (tmp_path / "new").exists(), "a check has drawn the data"
    other = {**shapes, "draw": dict(draw, size=64)}
    assert_named(check(train=other, scope="mmdet")["train"], "size 96 (requested: 64)")


def test_all_missing_paths_are_named(tmp_path: Path) -> None:
    findings = check(train=coco(tmp_path))["train"]
    assert_named(findings, "2 x missing path, e.g.", "instances_train2017.json", "docs/data.md")
    assert "train2017" in list(findings.lines(show=2))[-1]


def test_a_string_in_place_of_classes_is_named(drawn: Path) -> None:
    settings = {**coco(drawn), "metainfo": dict(classes="cube")}
    assert_named(check(train=settings)["train"], "string in place of", "'cube'")


def test_unknown_arguments_of_a_data_set_are_named(drawn: Path) -> None:
    assert_named(check(train=coco(drawn, anfile="x"))["train"], "cannot be built", "anfile")


def test_unknown_types_of_data_sets_are_not_guessed_at(drawn: Path) -> None:
    settings = dict(type="LVISV1Dataset", ann_file=str(drawn / "shapes.json"))
    findings = check(train=settings, scope="mmdet")["train"]
    assert_named(findings, "unknown type", "LVISV1Dataset", is_note=True)
    assert not findings.problems


def test_panoptic_data_are_not_taken_for_instances(drawn: Path) -> None:
    settings = {**coco(drawn), "type": "CocoPanopticDataset"}
    settings["data_prefix"] = dict(img="train2017/", seg="train2017/")
    findings = check(train=settings, scope="mmdet")["train"]
    assert_named(findings, "unknown type", "CocoPanopticDataset", is_note=True)
    assert not findings.problems


def test_classes_in_capitals_are_named(drawn: Path) -> None:
    settings = {**coco(drawn), "metainfo": dict(CLASSES=("a",), PALETTE=[(1, 2, 3)])}
    assert_named(check(train=settings)["train"], "metainfo in capitals", "metainfo.CLASSES")
