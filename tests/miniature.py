"""Miniature data in the layouts of the real data sets, drawn by the project."""

from __future__ import annotations

import json
from pathlib import Path

from mmdet.datasets import CocoDataset

from care_mm.datasets.shapes import ensure_shapes


def make_coco(root: Path, num_train: int = 8, num_val: int = 3, size: int = 96) -> Path:
    """COCO 2017's layout and 80 categories (with its gaps in the ids) over drawn pictures."""
    drawn = ensure_shapes(root.parent / f".{root.name}_drawn", num_train, num_val, size, seed=3)
    (drawn / "coco").rename(root)
    names = CocoDataset.METAINFO["classes"]
    ids = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    for file in (root / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        content["categories"] = [
            {"id": i, "name": name} for i, name in zip(ids, names, strict=True)
        ]
        for annotation in content["annotations"]:
            annotation["category_id"] = ids[13 * annotation["category_id"]]
        file.write_text(json.dumps(content))
    return root
