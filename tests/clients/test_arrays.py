"""Gray and RGBA images: docs/clients.md says which arrays the inferencers refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import scripts
import tool
from clients.conftest import ROOT
from untrained import CONFIGS, write_checkpoint

IMAGE = np.random.default_rng(0).integers(0, 255, (64, 80, 4), dtype=np.uint8)
ARRAYS = {"gray": (IMAGE[..., 0], IMAGE[..., :1]), "RGBA": (IMAGE,)}
FILES = ("gray.png", "rgba.png")
Infer = Callable[..., object]


def detector() -> Infer:
    from mmdet.apis import DetInferencer

    return DetInferencer(str(CONFIGS["detection"]), weights=None, device="cpu", show_progress=False)


def segmentor() -> Infer:
    from mmseg.apis import MMSegInferencer

    colours = dict(classes=list("abcdef"), palette=[[i, i, i] for i in range(6)])
    return MMSegInferencer(str(CONFIGS["segmentation"]), weights=None, device="cpu", **colours)


def classifier() -> Infer:
    from mmpretrain import ImageClassificationInferencer

    return ImageClassificationInferencer(
        str(CONFIGS["classification"]), pretrained=False, device="cpu"
    )


INFERENCERS = {
    "detection": ("DetInferencer", detector, "out_dir"),
    "segmentation": ("MMSegInferencer", segmentor, "out_dir"),
    "classification": ("ImageClassificationInferencer", classifier, "show_dir"),
}


def cell(row: str, column: str) -> str:
    """Return a cell of the page's table of arrays, by the first words of its row and column."""
    table = (ROOT / "docs" / "clients.md").read_text().split("| array |")[1].split("\n\n")[0]
    columns, _, *rows = (re.findall(r"[^|]+", line) for line in table.splitlines())
    position = next(i for i, name in enumerate(columns) if column in name) + 1
    return next(cells[position] for cells in rows if cells[0].strip().startswith(row))


@pytest.mark.parametrize("task", INFERENCERS)
def test_the_inferencers_do_with_arrays_what_the_page_says(task: str, tmp_path: Path) -> None:
    scripts.forget()
    name, build, option = INFERENCERS[task]
    infer = build()
    for kind, arrays in ARRAYS.items():
        plain, _, drawn = cell(kind, name).partition(", `")
        for array in arrays:
            for said, call in (
                (plain, infer),
                (drawn or plain, partial(infer, **{option: str(tmp_path)})),
            ):
                errors = re.findall(r"\w+Error", said)
                if errors:
                    with pytest.raises((IndexError, RuntimeError, ValueError)) as caught:
                        call(array)
                    assert caught.type.__name__ in errors
                else:
                    call(array)


@pytest.mark.parametrize("task", INFERENCERS)
def test_inferencers_and_our_command_read_gray_and_rgba_files(task: str, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    cv2.imwrite(str(folder / FILES[0]), IMAGE[..., 0])
    cv2.imwrite(str(folder / FILES[1]), IMAGE)
    scripts.forget()
    _, build, option = INFERENCERS[task]
    build()([str(folder / name) for name in FILES], **{option: str(tmp_path / "theirs")})
    scripts.forget()
    checkpoint = write_checkpoint(task, tmp_path)
    tool.call("infer", CONFIGS[task], checkpoint, folder, "--out-dir", tmp_path / "ours")
    assert set(json.loads((tmp_path / "ours" / "predictions.json").read_text())) == set(FILES)
