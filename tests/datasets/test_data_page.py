"""The config of docs/data.md trains on data in the layout of the page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from miniature import make_imagenet
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, MODELS, init_default_scope
from tool import TOOLS

from care_mm.config import load_config, without_pretrained
from care_mm.datasets.check import check_config, images, instances
from care_mm.datasets.shapes import ensure_shapes

ROOT = TOOLS.parent
PAGE = (ROOT / "docs" / "data.md").read_text()
PRINTED = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def make_nuts(drawn: Path, root: Path) -> None:
    """COCO format, three categories with ids of their own."""
    classes = ("date", "fig", "hazelnut")
    (root / "images").mkdir(parents=True)
    for split in ("train", "val"):
        content = json.loads(
            (drawn / "coco" / "annotations" / f"instances_{split}2017.json").read_text()
        )
        for image in content["images"]:
            name = f"{split}_{image['file_name']}"
            shutil.copy(
                drawn / "coco" / f"{split}2017" / image["file_name"], root / "images" / name
            )
            image["file_name"] = name
        for annotation in content["annotations"]:
            annotation["category_id"] = 7 + annotation["category_id"] % 3
        content["categories"] = [{"id": 7 + i, "name": name} for i, name in enumerate(classes)]
        (root / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the data set of the page."""
    folder = tmp_path_factory.mktemp("user")
    drawn = ensure_shapes(folder / "drawn", num_train=6, num_val=3, size=96)
    make_nuts(drawn, folder / "data" / "nuts")
    return folder


def printed(folder: Path) -> Config:
    """Load the printed config with the path to its base."""
    (text,) = PRINTED
    text, bases = re.subn(r'(_base_ = ")(configs/)', rf"\g<1>{ROOT}/\2", text)
    assert bases == 1
    file = folder / "printed.py"
    file.write_text(text)
    return load_config(file)


def test_the_printed_config_fits_its_data(user: Path, monkeypatch) -> None:
    monkeypatch.chdir(user)
    config = printed(user)
    for findings in check_config(config):
        assert not findings.problems, "\n".join(findings.lines())
    init_default_scope(config.default_scope)
    for split in ("train", "val", "test"):
        dataset = DATASETS.build(config[f"{split}_dataloader"].dataset)
        assert len(dataset) and "inputs" in dataset[0]
    assert Evaluator(config.val_evaluator).metrics


def test_the_printed_model_learns_from_a_batch(user: Path, monkeypatch) -> None:
    """The printed model has finite losses on samples of the printed pipeline."""
    monkeypatch.chdir(user)
    config = printed(user)
    init_default_scope(config.default_scope)
    model = MODELS.build(without_pretrained(config.model))
    dataset = DATASETS.build(config.train_dataloader.dataset)
    samples = [dataset[i] for i in range(2)]
    batch = {key: [sample[key] for sample in samples] for key in samples[0]}
    data = model.data_preprocessor(batch, training=True)
    losses = model(**data, mode="loss")
    total, _ = model.parse_losses(losses)
    assert np.isfinite(total.item())
    total.backward()


def test_lists_replace_class_folders_for_imagenet(tmp_path: Path, monkeypatch) -> None:
    """`meta/val.txt` and one folder of images work; without the list, the folder is named."""
    monkeypatch.chdir(tmp_path)
    root = make_imagenet(tmp_path / "data" / "imagenet")
    lines = []
    for label, folder in enumerate(sorted((root / "val").iterdir())):
        (file,) = folder.iterdir()
        file.rename(root / "val" / file.name)
        folder.rmdir()
        lines.append(f"{file.name} {label}")
    config = load_config(ROOT / "configs" / "care_s1_imagenet.py")
    val = next(check_config(config, ["val"], limit=5))
    assert any("next to its class folders" in line for line in val.lines())
    (root / "meta").mkdir()
    (root / "meta" / "val.txt").write_text("\n".join(lines))
    val = next(check_config(config, ["val"], limit=5))
    assert not val.problems, "\n".join(val.lines())
    dataset = DATASETS.build({**config.val_dataloader.dataset, "pipeline": []})
    assert [dataset[i]["gt_label"] for i in (0, 500, 999)] == [0, 500, 999]


def masked(lines: list[str]) -> list[str]:
    """Replace the numbers of a report, and remove objects that a small drawing does not have."""
    return [re.sub(r"[\d,]*\d", "N", line.split("; left out")[0]) for line in lines]


def test_the_printed_report_is_that_of_the_drawn_data(tmp_path: Path) -> None:
    root = ensure_shapes(tmp_path / "shapes", num_train=6, num_val=3, size=96)
    config = load_config(ROOT / "configs" / "shapes" / "maskrcnn_care_s0_shapes.py")
    for split in ("train", "val", "test"):
        dataset = config[f"{split}_dataloader"].dataset
        dataset.data_root = str(root / "coco")
        dataset.draw = dict(num_train=6, num_val=3, size=96)
    for evaluator in (config.val_evaluator, config.test_evaluator):
        evaluator.ann_file = str(root / "coco" / "annotations" / "instances_val2017.json")
    lines = [line for findings in check_config(config) for line in findings.lines()]
    printed_lines = PAGE[PAGE.index("train: ok") :].split("```")[0].splitlines()
    actual = [line for line in masked(lines) if "note:" not in line]
    assert actual == masked(printed_lines)


@pytest.mark.parametrize("kind", [images.MISSING, instances.NEGATIVE_BOX, images.GRAYSCALE])
def test_printed_problems_have_their_present_names_and_fixes(kind) -> None:
    assert f" x {kind.name}" in PAGE and f" ({kind.advice})\n" in PAGE
