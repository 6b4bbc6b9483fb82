"""Find the images and labels in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from care_mm.errors import InputError
from care_mm.predict.files import IMAGE_SUFFIXES

OWN = "care_mm"  # the subfolder of the data that the command writes into
SPLITS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "photos")
MASK_ENDINGS = ("_mask", "_masks", "_label", "_labels", "_seg", "_gt")
MASK_FOLDERS = ("masks", "mask", "annotations", "labels", "segmentationclass", "gt", "gtfine")
_HIDDEN = ("__MACOSX", OWN)
Pair = tuple[Path, Path]


@dataclass(frozen=True)
class Found:
    """Labels in a folder, by split.

    Attributes:
        form: ``coco``, ``voc``, ``yolo``, ``labelme``, ``masks`` or ``folders``.
        root: The folder that the user named.
        splits: For ``coco``, the JSON file and the folder of its images; for ``folders``, the
            folder of the split and itself; otherwise pairs of an image and its label. The key is
            ``train``, ``val`` or ``test``, or ``all`` for labels without a split.
        names: File with the names of the classes, if there is one.
    """

    form: str
    root: Path
    splits: dict[str, list[Pair]] = field(default_factory=dict)
    names: Path | None = None


def find_layout(root: Path, task: str) -> Found:
    """Find the labels for a task.

    Args:
        root: Folder of the user.
        task: ``detection``, ``segmentation`` or ``classification``.

    Raises:
        InputError: The folder does not exist, or has nothing for the task.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    finders = {
        "detection": (_coco, _yolo, _voc, _labelme),
        "segmentation": (_masks,),
        "classification": (_folders,),
    }[task]
    for finder in finders:
        if found := finder(root):
            return found
    expected = {
        "detection": "a COCO file (.json), Pascal VOC files (.xml), YOLO files (data.yaml and "
        ".txt) or LabelMe files (.json)",
        "segmentation": "a folder of images and a folder of masks (.png) with the same names",
        "classification": "a folder of images for each class",
    }[task]
    raise InputError(f"{root}: nothing to train on is found; --task {task} needs {expected}")


def split_of(names: Sequence[str]) -> str:
    """Return the split that names of files or folders tell, the last one first, or ``all``."""
    for name in reversed(names):
        words = "".join(c if c.isalpha() else " " for c in name.lower()).split()
        for split, synonyms in SPLITS.items():
            if any(word in synonyms for word in words):
                return split
    return "all"


def files_below(root: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """Yield the files with one of the suffixes; hidden files and our own are left out."""
    for file in sorted(root.rglob("*")):
        parts = file.relative_to(root).parts
        hidden = any(part.startswith(".") or part in _HIDDEN for part in parts)
        if file.suffix.lower() in suffixes and not hidden and file.is_file():
            yield file


def _coco(root: Path) -> Found | None:
    """Find COCO files; instances are preferred to captions and keypoints of the same split."""
    by_split: dict[str, list[tuple[Path, dict]]] = {}
    for file in files_below(root, (".json",)):
        if data := _coco_content(file):
            by_split.setdefault(split_of(file.relative_to(root).parts), []).append((file, data))
    found = Found("coco", root)
    for split, files in by_split.items():
        preferred = [item for item in files if "instance" in item[0].stem.lower()] or files
        if len(preferred) > 1:
            names = ", ".join(str(file.relative_to(root)) for file, _ in preferred)
            title = "" if split == "all" else f" for {split}"
            raise InputError(
                f"{root}: several COCO files{title} ({names}): name them after their splits "
                "(train.json, val.json), or move the others out of the folder"
            )
        file, data = preferred[0]
        found.splits[split] = [(file, _folder_of_images(root, file, data, split))]
    return found if found.splits else None


def _coco_content(file: Path) -> dict[str, Any] | None:
    """Return the content of a COCO file with annotations; ``None`` for other JSON files."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    keys = ("images", "annotations", "categories")
    is_coco = isinstance(data, dict) and all(isinstance(data.get(key), list) for key in keys)
    return data if is_coco and data["categories"] else None


def _folder_of_images(root: Path, file: Path, data: dict, split: str) -> Path:
    """Return the folder that has the most of a sample of the images of a COCO file.

    Splits may have images of the same names, so among equals a folder named after the split wins.

    Raises:
        InputError: No folder has any of them.
    """
    names = [str(image.get("file_name", "")) for image in data["images"] if isinstance(image, dict)]
    sample = names[:: max(len(names) // 20, 1)]
    folders = [file.parent, root, *(path for path in sorted(root.rglob("*")) if path.is_dir())]
    counts = [
        (
            sum((folder / name).is_file() for name in sample if name),
            split_of(folder.relative_to(root).parts) == split,
        )
        for folder in folders
    ]
    best = max(range(len(folders)), key=counts.__getitem__)
    if not counts[best][0]:
        example = f", such as {sample[0]}" if sample else ""
        raise InputError(f"{file}: none of its images{example}, is below {root}")
    return folders[best]


def _yolo(root: Path) -> Found | None:
    """Find YOLO labels: ``images/train/a.jpg`` and ``labels/train/a.txt``, or next to each other.

    Raises:
        InputError: There are label files, but no file with the names of the classes.
    """
    pairs = _paired(root, (".txt",), ("labels",))
    pairs = {s: kept for s, p in pairs.items() if (kept := [x for x in p if _is_yolo(x[1])])}
    if not pairs:
        return None
    names = next(files_below(root, (".yaml", ".yml")), None)
    if names is None:
        raise InputError(
            f"{root}: YOLO labels need a data.yaml with the names of the classes: names: [cat, dog]"
        )
    return Found("yolo", root, pairs, names)


def _is_yolo(file: Path) -> bool:
    """Whether the first line has a class number and at least four coordinates, or none."""
    line = next(iter(file.read_text(encoding="utf-8", errors="replace").splitlines()), "").split()
    try:
        return not line or (len(line) >= 5 and [float(x) for x in line] and float(line[0]) >= 0)
    except ValueError:
        return False


def _voc(root: Path) -> Found | None:
    """Find Pascal VOC labels, next to the images or in ``Annotations``; keep VOC's own splits."""
    pairs = _paired(root, (".xml",), ("annotations",))
    lists = {
        split: {line.split()[0] for line in file.read_text().splitlines() if line.split()}
        for split in ("train", "val", "test")
        for file in files_below(root, (".txt",))
        if file.stem == split and file.parent.name.lower() == "main"
    }
    if lists and list(pairs) == ["all"]:
        pairs = {
            split: [pair for pair in pairs["all"] if pair[1].stem in stems]
            for split, stems in lists.items()
        }
    pairs = {split: part for split, part in pairs.items() if part}
    return Found("voc", root, pairs) if pairs else None


def _labelme(root: Path) -> Found | None:
    """Find LabelMe files, which lie next to their images."""
    pairs = {
        split: kept
        for split, part in _paired(root, (".json",), ("labels", "annotations", "json")).items()
        if (kept := [pair for pair in part if '"shapes"' in pair[1].read_text(encoding="utf-8")])
    }
    return Found("labelme", root, pairs) if pairs else None


def _masks(root: Path) -> Found | None:
    """Find folders of images and of masks."""
    pairs = _paired(root, (".png",), MASK_FOLDERS, images=IMAGE_FOLDERS)
    return Found("masks", root, pairs) if pairs else None


def _paired(
    root: Path,
    suffixes: Sequence[str],
    folders: Sequence[str],
    images: Sequence[str] = (),
) -> dict[str, list[Pair]]:
    """Return pairs of images and labels of the same name by split.

    Args:
        root: Folder to search.
        suffixes: Suffixes of labels.
        folders: Names of folders that hold labels, in lower case. Their counterparts with images
            have other names, or the labels are next to the images.
        images: Names of folders that hold images, in lower case; empty for any.

    Returns:
        Split -> pairs; images without a label are left out.
    """
    labels: dict[tuple, Path] = {}
    for file in files_below(root, suffixes):
        parts = [part.lower() for part in file.relative_to(root).parts[:-1]]
        in_folder = any(part in folders for part in parts)
        if in_folder or not images:
            stem = file.stem
            if images:  # a mask may be called a_mask.png
                stem = next((stem[: -len(e)] for e in MASK_ENDINGS if stem.endswith(e)), stem)
            labels.setdefault(_key(parts, stem, folders), file)
    pairs: dict[str, list[Pair]] = {}
    for file in files_below(root, IMAGE_SUFFIXES):
        parts = [part.lower() for part in file.relative_to(root).parts[:-1]]
        if images and not any(part in images for part in parts):
            continue
        label = labels.get(_key(parts, file.stem, images or IMAGE_FOLDERS))
        if label is not None and label != file:
            split = split_of(file.relative_to(root).parts[:-1])
            pairs.setdefault(split, []).append((file, label))
    return pairs


def _key(parts: Sequence[str], stem: str, folders: Sequence[str]) -> tuple:
    """Return the place of a file without the folder that tells images from labels."""
    return (*(part for part in parts if part not in folders), stem)


def _folders(root: Path) -> Found | None:
    """Find class folders: ``train/cat/*.jpg``, or ``cat/*.jpg`` without splits.

    Raises:
        InputError: There is a single class only.
    """
    holders = [f for f in sorted(root.iterdir()) if f.is_dir() and f.name not in _HIDDEN]
    holders = [f for f in holders if not f.name.startswith(".")]
    splits = {split_of([folder.name]): folder for folder in holders if _has_classes(folder)}
    splits.pop("all", None)
    if not splits and _has_classes(root):
        splits = {"all": root}
    for folder in splits.values():
        if len(classes_of(folder)) < 2:
            raise InputError(f"{folder}: a classifier needs the folders of two classes or more")
    found = {split: [(folder, folder)] for split, folder in splits.items()}
    return Found("folders", root, found) if found else None


def classes_of(folder: Path) -> list[str]:
    """Return the names of the class folders, sorted as mmpretrain does."""
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in _HIDDEN
    )


def _has_classes(folder: Path) -> bool:
    return any(
        next(files_below(folder / name, IMAGE_SUFFIXES), None) is not None
        for name in classes_of(folder)
    )
