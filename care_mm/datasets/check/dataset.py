"""Check one data set: choose the check for its type, and run it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from care_mm.config import type_name
from care_mm.datasets.check.coco import check_coco
from care_mm.datasets.check.coverage import Coverage
from care_mm.datasets.check.findings import Findings, Kind, note
from care_mm.datasets.check.folders import check_folders
from care_mm.datasets.check.masks import check_masks
from care_mm.datasets.paths import is_url, paths_of
from care_mm.errors import one_line

Check = Callable[[Any, Mapping, Coverage], Findings]
# (package, data set class) -> check; also for subclasses that read files in the same way.
CHECKS: dict[tuple[str, str], Check] = {
    ("mmdet", "CocoDataset"): check_coco,
    ("mmdet", "CityScapesDataset"): check_coco,
    ("mmseg", "BaseSegDataset"): check_masks,
    ("mmpretrain", "CustomDataset"): check_folders,
}

ABSENT = Kind("missing path", "lay out the data as in docs/data.md, or set data_root")
UNBUILT = Kind("data set that cannot be built", "fix its part of the config")
ONE_STRING = Kind("string in place of a list of classes", "a tuple of one has a comma: ('nut',)")
CAPITALS = Kind(
    "key of metainfo in capitals", "OpenMMLab 2 reads lower case only: write it in lower case"
)
UNKNOWN = note("data set of an unknown type", "only its paths were checked")
REMOTE = note("URL in place of a path", "not checked")


def check_dataset(settings: Mapping, coverage: Coverage) -> Findings:
    """Check the data set of a config.

    The data set is built without loading anything, which resolves its paths, classes and defaults
    as training would.

    Args:
        settings: The data set's config, not that of a wrapper.
        coverage: What to check.
    """
    root = str(settings.get("data_root") or "")
    place = root.rstrip("/") or str(settings.get("ann_file", ""))
    findings = Findings(place=place)
    if type_name(settings) == "Shapes" and not Path(root).expanduser().exists():
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
    metainfo = settings.get("metainfo")
    metainfo = metainfo if isinstance(metainfo, Mapping) else {}
    capitals = [key for key in metainfo if key in ("CLASSES", "PALETTE")]
    if capitals:
        findings.add(CAPITALS, (f"metainfo.{key}" for key in capitals))
        return findings
    classes = metainfo.get("classes")
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
        findings = check(dataset, settings, coverage)
    findings.place = place
    return findings


def _check_of(dataset_type: type) -> Check | None:
    """Return the check for a data set class; ``None`` if there is none."""
    for base in dataset_type.__mro__:
        check = CHECKS.get((base.__module__.split(".")[0], base.__name__))
        if check is not None:
            methods = ("load_data_list", "parse_data_info")
            keeps = all(getattr(dataset_type, m) is getattr(base, m) for m in methods)
            return check if keeps else None
    return None
