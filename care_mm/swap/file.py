"""From one config file to another: what ``tools/swap_backbone.py`` does."""

from __future__ import annotations

from pathlib import Path

from care_mm.errors import InputError
from care_mm.models.backbone import CARETransformer
from care_mm.models.pretrained import load_pretrained
from care_mm.swap.backbone import Swap, swap_backbone
from care_mm.swap.config_file import swap_text
from care_mm.swap.source import read
from care_mm.swap.trial import try_model


def swap_file(
    config: str, out: str | Path, arch: str = "s1", checkpoint: str | None = None
) -> Swap:
    """Write a config that has CARE in place of the backbone of another one.

    Nothing is written before the new model has been built and has run on a blank picture, and
    before the weights, if they are there already, have been loaded.

    Args:
        config: A file, or ``mmdet::folder/config.py``, ``mmseg::folder/config.py``.
        out: The file to write; it must not exist.
        arch: ``'s0'``, ``'s1'`` or ``'s2'``.
        checkpoint: Weights of the backbone; default ``checkpoints/care_{arch}_in1k.pth``.

    Raises:
        InputError: As :func:`care_mm.swap.backbone.swap_backbone`; or ``out`` is no new ``.py``
            file, the new model does not run, or the weights do not fit.
    """
    out = Path(out)
    if out.suffix != ".py":
        raise InputError(f"--out {out}: a config's name ends in .py")
    if out.exists():
        raise InputError(f"--out {out}: exists already, choose another name")
    source = read(config)
    try:
        swap = swap_backbone(source.config, arch, checkpoint)
        try_model(swap.config)
    except InputError as error:
        raise InputError(f"{config}: {error}") from error
    if Path(swap.checkpoint).is_file():
        backbone = CARETransformer(arch, out_indices=swap.out_indices)
        load_pretrained(backbone, swap.checkpoint)
    text = swap_text(swap, source, out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}") from error
    return swap
