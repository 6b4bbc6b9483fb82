"""A data set's pipeline that names the file it fails on, and looks at what would pass silently.

Decoders return half a picture from half a file; boxes of a picture that was resized after it was
annotated are off without a word; a label beyond the classes is an index error on the CPU and ends
a GPU's context.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from PIL import Image

from care_mm.errors import InputError

IGNORED = 255  # mmseg's label of pixels that do not count
ADVICE = "tools/check_data.py looks at all of them"
# What the last bytes of a whole file hold, by the first ones.
ENDINGS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG\r\n\x1a\n": b"IEND"}


class BadSample(Exception):
    """Something about one sample that makes it useless; the message says what."""


def check_whole(path: str | Path) -> None:
    """Notice a JPEG or PNG file that is cut short, of which OpenCV decodes what there is.

    Only a file without its end mark is decoded here; others cost a read of a few bytes.

    Raises:
        BadSample: The file is cut short.
    """
    with open(path, "rb") as file:
        start = file.read(8)
        ending = next((end for mark, end in ENDINGS.items() if start.startswith(mark)), None)
        if ending is None:
            return
        file.seek(max(0, os.fstat(file.fileno()).st_size - 32))
        if ending in file.read():
            return
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:
        raise BadSample(f"cut short or damaged ({_one_line(error)})") from error


def _one_line(error: BaseException) -> str:
    reason = " ".join(str(error).split())
    name = type(error).__name__
    return reason if isinstance(error, BadSample) else f"{name}: {reason}" if reason else name


class GuardedPipeline:
    """A pipeline that turns every failure into a named bad file.

    Args:
        pipeline: The data set's own.
        num_classes: Of the data set, which labels have to stay below; ``None`` leaves them alone.
        skip: In training, leave a bad file out and go on: the data set takes another in its place.
            Otherwise the first one ends the run.
        max_bad: Different bad files that are put up with, in all processes together.
        max_in_a_row: Failures without a good sample between them, after which something else than
            a file is wrong.
        record: Where bad files are written down, a line each.
    """

    def __init__(
        self,
        pipeline: Callable[[dict], Any],
        num_classes: int | None = None,
        skip: bool = False,
        max_bad: int = 10,
        max_in_a_row: int = 20,
        record: str | Path | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.num_classes = num_classes
        self.skip = skip
        self.max_bad = max_bad
        self.max_in_a_row = max_in_a_row
        self.record = record
        self.in_a_row = 0

    def __getattr__(self, name: str) -> Any:
        if name == "pipeline":  # not yet there while being unpickled
            raise AttributeError(name)
        return getattr(self.pipeline, name)

    def __call__(self, data: dict) -> Any:
        """The pipeline's result; ``None`` for a sample that is left out.

        Raises:
            InputError: A bad file, or too many of them; names the file.
        """
        path, size = self._file(data), (data.get("height"), data.get("width"))
        try:
            if os.path.isfile(path):  # other kinds of storage: what the pipeline says
                check_whole(path)
            result = self.pipeline(data)
            if result is not None:
                for problem in self._problems(result, size):
                    raise BadSample(problem)
        except (MemoryError, InputError):
            raise
        except Exception as error:
            self._refuse_or_note(path, error)
            return None
        # A pipeline may return nothing, of a crop without an object; not for ever.
        self.in_a_row = 0 if result is not None else self.in_a_row + 1
        if self.in_a_row > 10 * self.max_in_a_row:
            raise InputError(
                f"the pipeline gave nothing for {self.in_a_row} samples in a row, the last is "
                f"{path}: does a crop or a filter leave anything? {ADVICE}"
            )
        return result

    @staticmethod
    def _file(data: Mapping) -> str:
        return str(data.get("img_path") or data.get("filename") or "")

    def _problems(self, result: Any, annotated: tuple) -> Iterator[str]:
        """What is wrong with a packed sample, in the words of a message."""
        sample = result.get("data_samples") if isinstance(result, Mapping) else None
        if sample is None:
            return
        loaded = getattr(sample, "ori_shape", None)
        if None not in annotated and loaded is not None and tuple(loaded) != annotated:
            yield (
                f"is {loaded[1]}x{loaded[0]} pixels where the annotations say "
                f"{annotated[1]}x{annotated[0]}: annotate the picture as it is, turned by its EXIF "
                "data"
            )
        if "gt_instances" in sample and "bboxes" in sample.gt_instances:
            boxes = sample.gt_instances.bboxes
            if not torch.isfinite(getattr(boxes, "tensor", boxes)).all():
                yield "has a box that is not finite"
        if self.num_classes is None:
            return
        if "gt_sem_seg" in sample:
            labels = sample.gt_sem_seg.data
            beyond = (labels >= self.num_classes) & (labels != IGNORED)
            if beyond.any():
                yield (
                    f"has label {int(labels[beyond][0])} in its mask, the classes end at "
                    f"{self.num_classes - 1}: look at reduce_zero_label and metainfo.classes"
                )
        if "gt_label" in sample:
            labels = np.asarray(sample.gt_label)
            if labels.size and not ((labels >= 0) & (labels < self.num_classes)).all():
                yield f"has label {labels.tolist()}, the classes end at {self.num_classes - 1}"

    def _refuse_or_note(self, path: str, error: Exception) -> None:
        line = f"{path or 'a sample without a path'}: {_one_line(error)}"
        self.in_a_row += 1
        if not self.skip:
            raise InputError(f"image {line}; mend it or take it out, {ADVICE}") from error
        if self.in_a_row >= self.max_in_a_row:
            raise InputError(
                f"{self.in_a_row} images in a row are of no use, the last is {line}; {ADVICE}"
            ) from error
        bad = self._note(path, line)
        if bad > self.max_bad:
            raise InputError(
                f"{bad} images are of no use, which is more than {self.max_bad} (they are listed "
                f"in {self.record}), the last is {line}; {ADVICE}"
            ) from error

    def _note(self, path: str, line: str) -> int:
        """Write a new bad file down; returns how many there are."""
        known = noted(self.record)
        if path not in {entry.split(": ", 1)[0] for entry in known}:
            known.append(line)
            print_log(f"left out: image {line}", logger="current", level=30)
            if self.record:
                with open(self.record, "a") as file:  # a line at a time, other processes write too
                    file.write(line + "\n")
        return len(known)


def noted(record: str | Path | None) -> list[str]:
    """The lines of a record of bad files, each file once."""
    if record is None or not Path(record).is_file():
        return []
    lines = Path(record).read_text().splitlines()
    return list({line.split(": ", 1)[0]: line for line in lines}.values())


def leaves(dataset: Any) -> Iterator[Any]:
    """The data sets within wrappers (RepeatDataset, ConcatDataset, ...) that have a pipeline."""
    inner = [getattr(dataset, name, None) for name in ("dataset", "datasets")]
    inner = [part for part in inner if part is not None]
    for item in inner:
        for part in item if isinstance(item, list | tuple) else [item]:
            yield from leaves(part)
    if not inner and hasattr(dataset, "pipeline"):
        yield dataset
