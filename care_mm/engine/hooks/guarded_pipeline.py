"""A data pipeline that names the file it fails on, and checks what would otherwise pass silently.

Decoders return half an image from half a file. If an image was resized after it was annotated, its
boxes are wrong without an error. A label beyond the classes is an index error on the CPU and makes
a GPU unusable for the process.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log

from care_mm.datasets.truncation import refuse_truncated
from care_mm.errors import InputError, one_line

ADVICE = "tools/check_data.py checks all of them"


class BadSample(Exception):
    """A sample that cannot be used, and the reason."""


def check_complete(path: str | Path) -> None:
    """Detect truncated JPEG and PNG files; see :func:`refuse_truncated`.

    Raises:
        BadSample: The file is cut short.
    """
    try:
        refuse_truncated(path)
    except InputError as error:
        raise BadSample(str(error)) from error


def _reason(error: Exception) -> str:
    name, text = type(error).__name__, one_line(error)
    return text if isinstance(error, BadSample) or text == name else f"{name}: {text}"


class GuardedPipeline:
    """A pipeline that reports every failure as a bad file, by name.

    Args:
        pipeline: The pipeline of the data set.
        num_classes: Number of classes, to check labels against; ``None`` skips that check.
        ignore_index: Label of pixels that are not counted.
        skip: Report a bad file and return ``None``, so that the data set draws another sample.
            Otherwise the first bad file ends the run.
        max_bad: Number of distinct bad files tolerated, over all processes.
        max_in_a_row: Number of consecutive failures that end the run, since the cause is probably
            not a file.
        record: File that lists the bad files, one per line; shared by all processes.
    """

    def __init__(
        self,
        pipeline: Callable[[dict], Any],
        num_classes: int | None = None,
        ignore_index: int = 255,
        skip: bool = False,
        max_bad: int = 10,
        max_in_a_row: int = 20,
        record: str | Path | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.skip = skip
        self.max_bad = max_bad
        self.max_in_a_row = max_in_a_row
        self.record = record
        self.in_a_row = 0

    def __getattr__(self, name: str) -> Any:
        if name == "pipeline":  # not set yet while the object is unpickled
            raise AttributeError(name)
        return getattr(self.pipeline, name)

    def __call__(self, data: dict) -> Any:
        """Return the result of the pipeline, or ``None`` for a skipped sample.

        Raises:
            InputError: A bad file, or too many of them; names the file.
        """
        path = str(data.get("img_path") or data.get("filename") or "")
        size = (data.get("height"), data.get("width"))
        try:
            if os.path.isfile(path):  # for other kinds of storage, only the pipeline can tell
                check_complete(path)
            result = self.pipeline(data)
            if result is not None:
                self._check(result, size)
        except (MemoryError, InputError):
            raise
        except Exception as error:
            self._report(path, error)
            return None
        # A pipeline may return nothing, for a crop without an object, but not forever.
        self.in_a_row = 0 if result is not None else self.in_a_row + 1
        if self.in_a_row > 10 * self.max_in_a_row:
            raise InputError(
                f"the pipeline returned nothing for {self.in_a_row} samples in a row, the last is "
                f"{path}: does a crop or a filter remove all objects? {ADVICE}"
            )
        return result

    def _check(self, result: Any, annotated: tuple) -> None:
        """Check a packed sample.

        Args:
            result: The result of the pipeline.
            annotated: Height and width according to the annotations.

        Raises:
            BadSample: The size, a box or a label is wrong.
        """
        sample = result.get("data_samples") if isinstance(result, Mapping) else None
        if sample is None:
            return
        loaded = getattr(sample, "ori_shape", None)
        if None not in annotated and loaded is not None and tuple(loaded) != annotated:
            raise BadSample(
                f"is {loaded[1]}x{loaded[0]} pixels, but the annotations say "
                f"{annotated[1]}x{annotated[0]}: annotate the image as it is loaded, rotated by "
                "its EXIF data"
            )
        if "gt_instances" in sample and "bboxes" in sample.gt_instances:
            boxes = sample.gt_instances.bboxes
            if not torch.isfinite(getattr(boxes, "tensor", boxes)).all():
                raise BadSample("has a box that is not finite")
        if self.num_classes is None:
            return
        last = self.num_classes - 1
        if "gt_instances" in sample and "labels" in sample.gt_instances:
            labels = sample.gt_instances.labels
            beyond = (labels < 0) | (labels > last)
            if beyond.any():
                raise BadSample(
                    f"has an object with label {int(labels[beyond][0])}, the classes end at {last}"
                )
        if "gt_sem_seg" in sample:
            labels = sample.gt_sem_seg.data
            if type(sample).__name__ == "SegDataSample":  # mmdet's stuff may have another scale
                _check_mask(labels, result.get("inputs"), loaded)
            beyond = (labels > last) & (labels != self.ignore_index)
            if beyond.any():
                raise BadSample(
                    f"has label {int(labels[beyond][0])} in its mask, the classes end at {last}: "
                    "check reduce_zero_label and metainfo.classes"
                )
        if "gt_label" in sample:
            labels = np.asarray(sample.gt_label)
            if not ((labels >= 0) & (labels <= last)).all():
                raise BadSample(f"has label {labels.tolist()}, the classes end at {last}")

    def _report(self, path: str, error: Exception) -> None:
        """Record a bad file.

        Raises:
            InputError: The file ends the run: none may be skipped, or there are too many.
        """
        line = f"{_quoted(path or 'a sample without a path')}: {_reason(error)}"
        self.in_a_row += 1
        if not self.skip:
            raise InputError(f"image {line}; fix or remove it, {ADVICE}") from error
        if self.in_a_row >= self.max_in_a_row:
            raise InputError(
                f"{self.in_a_row} images in a row are unusable, the last is {line}; {ADVICE}"
            ) from error
        bad = self._record(line)
        if bad > self.max_bad:
            raise InputError(
                f"{bad} images are unusable, which is more than {self.max_bad} (they are listed "
                f"in {self.record}), the last is {line}; {ADVICE}"
            ) from error

    def _record(self, line: str) -> int:
        """Log and record a bad file unless it is known, and return how many there are."""
        known = recorded(self.record)
        if _path_of(line) not in map(_path_of, known):
            known.append(line)
            print_log(f"skipped image {line}", logger="current", level=logging.WARNING)
            if self.record:
                with open(self.record, "a") as file:  # other processes append lines, too
                    file.write(line + "\n")
        return len(known)


def _check_mask(labels: torch.Tensor, image: Any, loaded: tuple | None) -> None:
    """Check that a mask has one channel, and the size of its image.

    Args:
        labels: (1, H, W).
        image: (C, H, W), after the pipeline.
        loaded: Height and width of the image file, which masks of an evaluation keep.

    Raises:
        BadSample: It has not.
    """
    if labels.ndim != 3 or len(labels) != 1:
        raise BadSample(
            "has a mask that is not one channel: write class numbers as a grayscale or palette PNG"
        )
    if not torch.is_tensor(image):
        return
    size, expected = tuple(labels.shape[1:]), tuple(image.shape[-2:])
    if size not in (expected, tuple(loaded or ())[:2]):
        raise BadSample(
            f"is {expected[1]}x{expected[0]} pixels after the pipeline, and its mask is "
            f"{size[1]}x{size[0]}: their files differ in size"
        )


def recorded(record: str | Path | None) -> list[str]:
    """Return the lines of a record of bad files, one for each file."""
    if record is None or not Path(record).is_file():
        return []
    lines = Path(record).read_text().splitlines()
    return list({_path_of(line): line for line in lines}.values())


def _quoted(path: str) -> str:
    """Return a path as a record has it: in quotes if it could end too early."""
    return json.dumps(path, ensure_ascii=False) if ": " in path or '"' in path else path


def _path_of(line: str) -> str:
    """Return the path at the beginning of a line of a record."""
    return re.match(r'"(?:[^"\\]|\\.)*"|.*?(?=: |$)', line)[0]


def leaves(dataset: Any) -> Iterator[Any]:
    """Yield the data sets with a pipeline inside wrappers (RepeatDataset, ConcatDataset, ...)."""
    inner = [getattr(dataset, name, None) for name in ("dataset", "datasets")]
    inner = [part for part in inner if part is not None]
    for item in inner:
        for part in item if isinstance(item, list | tuple) else [item]:
            yield from leaves(part)
    if not inner and hasattr(dataset, "pipeline"):
        yield dataset
