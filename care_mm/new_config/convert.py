"""Convert Pascal VOC, YOLO and LabelMe labels to COCO files, once, next to the data."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from care_mm.errors import InputError, one_line
from care_mm.files import write_bytes
from care_mm.new_config.layout import OWN, Found, Pair

# supervision holds the masks of all images that it reads at once.
_CHUNK = 50


def to_coco(found: Found) -> dict[str, dict[str, Any]]:
    """Return the labels of a folder as the contents of COCO files, by split.

    ``file_name`` is relative to the folder. Classes are in the order of their names, for YOLO in
    the order of their numbers.

    Args:
        found: Labels of the form ``voc``, ``yolo`` or ``labelme``.

    Raises:
        InputError: supervision is not installed, or refuses a file.
    """
    try:
        import supervision
    except ImportError as error:
        raise InputError(
            f"{found.root}: {found.form.upper()} labels are converted by supervision, which is not "
            "installed: pip install 'care-mm[convert]'"
        ) from error
    contents = {}
    for split, pairs in found.splits.items():
        chunks = [
            _convert(supervision, found, pairs[start : start + _CHUNK])
            for start in range(0, len(pairs), _CHUNK)
        ]
        contents[split] = _merge(chunks)
    names = None if found.form == "yolo" else sorted({n for c in contents.values() for n in c[0]})
    return {
        split: _coco(images, objects, names or classes)
        for split, (classes, images, objects) in contents.items()
    }


def write_splits(root: Path, contents: dict[str, dict[str, Any]]) -> dict[str, Path]:
    """Write COCO files into our subfolder of the data, and return them by split."""
    folder = root / OWN
    folder.mkdir(exist_ok=True)
    files = {}
    for split, content in contents.items():
        files[split] = folder / f"{split}.json"
        write_bytes(json.dumps(content).encode(), files[split])
    return files


def _convert(supervision: Any, found: Found, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return a COCO file of some images, whose ``file_name`` is the index of the pair.

    The reader wants folders in which each name exists once, so it gets links.
    """
    with tempfile.TemporaryDirectory() as scratch:
        images, labels = Path(scratch, "images"), Path(scratch, "labels")
        images.mkdir()
        labels.mkdir()
        for number, (image, label) in enumerate(pairs):
            name = f"{number:06d}"
            os.symlink(image.absolute(), images / f"{name}{image.suffix.lower()}")
            if found.form == "labelme":
                content = json.loads(label.read_text(encoding="utf-8"))
                content["imagePath"] = f"{name}{image.suffix.lower()}"
                (labels / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
            else:
                os.symlink(label.absolute(), labels / f"{name}{label.suffix}")
        folders = (str(images), str(labels))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if found.form == "yolo":
                    data = supervision.DetectionDataset.from_yolo(*folders, str(found.names))
                elif found.form == "voc":
                    data = supervision.DetectionDataset.from_pascal_voc(*folders)
                else:
                    data = supervision.DetectionDataset.from_labelme(*folders)
                result = Path(scratch, "coco.json")
                data.as_coco(annotations_path=str(result))
        except Exception as error:  # it raises many types for files that it cannot read
            reason = one_line(error)
            for number, (_, label) in enumerate(pairs):
                for suffix in (".txt", ".xml", ".json"):
                    reason = reason.replace(str(labels / f"{number:06d}{suffix}"), str(label))
            raise InputError(f"{found.root}: {found.form.upper()} labels: {reason}") from error
        content = json.loads(result.read_text(encoding="utf-8"))
    for image in content["images"]:
        file = pairs[int(Path(image["file_name"]).stem)][0]
        image["file_name"] = file.relative_to(found.root).as_posix()
    return content


def _merge(chunks: Sequence[dict]) -> tuple[list[str], list[dict], list[dict]]:
    """Return class names, images and annotations of several COCO files with ids of their own.

    The ``category_id`` of an annotation is replaced by the name of its class.
    """
    classes: list[str] = []
    images: list[dict] = []
    objects: list[dict] = []
    for chunk in chunks:
        names = {category["id"]: category["name"] for category in chunk["categories"]}
        classes += [name for name in names.values() if name not in classes]
        ids = {}
        for image in chunk["images"]:
            ids[image["id"]] = len(images) + 1
            keys = ("file_name", "width", "height")
            images.append({"id": len(images) + 1, **{key: image[key] for key in keys}})
        for item in chunk["annotations"]:
            objects.append(
                {
                    **item,
                    "id": len(objects) + 1,
                    "image_id": ids[item["image_id"]],
                    "category_id": names[item["category_id"]],
                    "iscrowd": 0,  # supervision marks every mask with a hole as a crowd
                }
            )
    return classes, images, objects


def _coco(images: list[dict], objects: list[dict], classes: Sequence[str]) -> dict[str, Any]:
    numbers = {name: number for number, name in enumerate(classes, 1)}
    return {
        "images": images,
        "annotations": [{**o, "category_id": numbers[o["category_id"]]} for o in objects],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }
