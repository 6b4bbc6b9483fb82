"""Write the folder of ``--format web``: the page, the runtime, and what the page has to know."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from care_mm.datasets.shapes import scene_at
from care_mm.errors import InputError, refuse_existing
from care_mm.export.graphs import threshold_of
from care_mm.export.onnx import OnnxProgram
from care_mm.export.web.preparation import padding_of
from care_mm.files import PARTIAL, write_bytes
from care_mm.palette import drawable

FORMAT = "web"  # value of --format
MODEL = "model.onnx"
PAGE = Path(__file__).parent / "page"
RUNTIME = "onnxruntime-web"  # subfolder
SCORE_THR = 0.3  # default of tools/infer.py
# Entries of the ONNX file's description that the page reads as well.
_OF_THE_FILE = ("task", "outputs", "channels", "mean", "std", "shape")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that gets the name ``out`` when the context ends without an error.

    Raises:
        InputError: ``out`` exists, or there is no folder to create it in.
    """
    refuse_existing(out, "--out")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=PARTIAL, dir=out.parent))
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror})") from error
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp hides it from a server of another user
        refuse_existing(out, "--out")
        os.rename(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Drawing:
    """How ``tools/infer.py`` draws predictions.

    Attributes:
        dataset_meta: ``classes`` and ``palette``.
        alpha: Opacity of masks and of the class map.
    """

    dataset_meta: Mapping[str, Any]
    alpha: float = 0.8


def write_page(
    folder: Path,
    model: nn.Module,
    preparation: Sequence[Mapping[str, Any]],
    drawing: Drawing,
    runtime: Mapping[str, Path],
) -> list[str]:
    """Add everything but the model to a folder that has the ONNX file.

    Args:
        folder: The folder with :data:`MODEL`.
        model: The model of the file.
        preparation: From :func:`care_mm.export.web.preparation.preparation_of`.
        drawing: Class names and colours.
        runtime: From :func:`care_mm.export.web.runtime_files.runtime_files`.

    Returns:
        Lines that describe the folder.

    Raises:
        InputError: The disk is full.
    """
    about = OnnxProgram(folder / MODEL).about
    meta = drawable(drawing.dataset_meta, mathtext=False)
    content = {
        **{name: about[name] for name in _OF_THE_FILE if about.get(name) is not None},
        "classes": meta["classes"] or [],
        "palette": meta["palette"],
        "alpha": drawing.alpha,
        "score_thr": SCORE_THR,
        "preparation": list(preparation),
        "padding": padding_of(model),
        **_head_settings(model, about["outputs"]),
    }
    write_bytes(json.dumps(content, indent=1).encode(), folder / "about.json")
    for file in sorted(PAGE.iterdir()):
        write_bytes(file.read_bytes(), folder / file.name)
    write_bytes(example(), folder / "example.png")
    (folder / RUNTIME).mkdir()
    for name, path in runtime.items():
        write_bytes(path.read_bytes(), folder / RUNTIME / name)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return [f"folder of {size / 1e6:.0f} MB, to be served by any web server"]


def example(size: int = 256) -> bytes:
    """Return a drawn image as a PNG file, with sides of 256 and 192 pixels by default."""
    buffer = io.BytesIO()
    image = Image.fromarray(scene_at("val", 3, size, seed=1).image)
    image.resize((size, size * 3 // 4)).save(buffer, format="PNG")
    return buffer.getvalue()


def _head_settings(model: nn.Module, outputs: Sequence[str]) -> dict[str, Any]:
    """Return what the page needs to turn the outputs of a head into a class map or masks.

    Raises:
        InputError: The head predicts several labels for an image.
    """
    if hasattr(model, "decode_head"):
        threshold = threshold_of(model.decode_head)
        return {"align_corners": bool(model.align_corners), "threshold": threshold}
    if "masks" in outputs:
        return {"mask_threshold": float(model.roi_head.test_cfg["mask_thr_binary"])}
    if "mask_logits" in outputs:
        head = model.bbox_head
        stride = int(head.prior_generator.strides[0][0])
        return {"mask_threshold": float(head.test_cfg["mask_thr_binary"]), "mask_stride": stride}
    if type(getattr(model, "head", None)).__name__.startswith("MultiLabel"):
        raise InputError("--format web: the page shows one label for an image, not several")
    return {}
