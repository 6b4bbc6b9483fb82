"""Check one data set: choose the check for its type, and run it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from care_mm.datasets.check.coco import check_coco
from care_mm.datasets.check.findings import Findings, Kind, note
from care_mm.datasets.check.folders import check_folders
from care_mm.datasets.check.masks import check_masks
from care_mm.datasets.paths import is_url, paths_of
from care_mm.errors import one_line

Check = Callable[[Any, Mapping, int | None], Findings]
# (package, data set class) -> check; also for subclasses that keep load_data_list.
CHECKS: dict[tuple[str, str], Check] = {
    ("mmdet", "CocoDataset"): check_coco,
    ("mmseg", "BaseSegDataset"): check_masks,
    ("mmpretrain", "CustomDataset"): check_folders,
}

ABSENT = Kind("missing path", "lay out the data as in docs/data.md, or set data_root")
UNBUILT = Kind("data set that cannot be built", "fix its part of the config")
ONE_STRING = Kind("string in place of a list of classes", "a tuple of one has a comma: ('nut',)")
UNKNOWN = note("data set of an unknown type", "only its paths were checked")
REMOTE = note("URL in place of a path", "not checked")


def check_dataset(settings: Mapping, limit: int | None) -> Findings:
    """Check the data set of a config.

    The data set is built without loading anything, which resolves its paths, classes and defaults
    as training would.

    Args:
        settings: The data set's config, not that of a wrapper.
        limit: Number of images to decode, evenly spaced; ``None`` for all.
    """
    root = str(settings.get("data_root") or "")
    place = root.rstrip("/") or str(settings.get("ann_file", ""))
    findings = Findings(place=place)
    if settings.get("type") == "Shapes" and not Path(root).expanduser().exists():
        findings.summary = f"will be drawn into {root} on first use"
        return findings
    if any(isinstance(value, str) and is_url(value) for value in settings.values()):
        findings.add(REMOTE, place)
        return findings
    absent = [str(path) for path in paths_of(settings) if not path.exists()]
    if absent:
        findings.summary = "not found"
        findings.add(ABSENT, absent)
        return findings
    classes = (settings.get("metainfo") or {}).get("classes")
    if isinstance(classes, str) and not Path(classes).is_file():
        findings.add(ONE_STRING, repr(classes))
        return findings
    try:
        dataset = DATASETS.build({**settings, "pipeline": [], "lazy_init": True})
    except Exception as error:  # data sets raise many types for arguments that they reject
        reason = f"{type(error).__name__}: {one_line(error, 300)}"
        findings.add(UNBUILT, f"{settings.get('type')}: {reason}")
        return findings
    check = _check_of(type(dataset))
    if check is None:
        findings.add(UNKNOWN, type(dataset).__name__)
        return findings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about files that are reported anyway
        findings = check(dataset, settings, limit)
    findings.place = place
    return findings


def _check_of(dataset_type: type) -> Check | None:
    """Return the check for a data set class; ``None`` if there is none."""
    for base in dataset_type.__mro__:
        check = CHECKS.get((base.__module__.split(".")[0], base.__name__))
        if check is not None:
            keeps_loading = dataset_type.load_data_list is base.load_data_list
            return check if keeps_loading else None
    return None
