"""From a config file to a new one: what ``tools/swap_backbone.py`` does."""

from __future__ import annotations

import keyword
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from yapf.yapflib.yapf_api import FormatCode

from care_mm.config import load_config
from care_mm.errors import InputError, refuse_existing
from care_mm.models.pretrained import load_pretrained
from care_mm.shipped import packaged_config
from care_mm.swap.backbone import Swap, swap_backbone
from care_mm.swap.choices import CARE, choose
from care_mm.swap.probe import try_model

PACKAGES = ("mmdet", "mmseg")
# Images per step and optimizer of our own configs, which tests/swap/test_config_file.py compares.
RECIPES = {
    "mmdet": (16, dict(type="AdamW", lr=2e-4, weight_decay=0.05)),
    "mmseg": (32, dict(type="AdamW", lr=2e-4, weight_decay=1e-4)),
}
WIDTH = 100
# The style of MM's own configs. `Config.pretty_text` would sort the keys, write one number per
# line and lose the remarks.
STYLE = dict(
    based_on_style="pep8", column_limit=WIDTH, split_before_expression_after_opening_paren=True
)


@dataclass(frozen=True)
class Source:
    """A config as it was read.

    Attributes:
        name: The name that the user gave, maybe with ``mmdet::`` or ``mmseg::``.
        path: The file.
        config: Its content.
    """

    name: str
    path: Path
    config: Config


def read(name: str) -> Source:
    """Read ``path/to/config.py``, ``mmdet::folder/config.py`` or ``mmseg::folder/config.py``.

    Raises:
        InputError: No such package or config (close names are suggested), or a file that does not
            parse.
    """
    path = _resolve(name)
    return Source(name, path, load_config(path))


def _resolve(name: str) -> Path:
    package, separator, _ = name.partition("::")
    if not separator:
        return Path(name)
    if package not in PACKAGES:
        raise InputError(
            f"config {name}: only {' and '.join(f'{p}::' for p in PACKAGES)} are known"
        )
    return packaged_config(name)


def swap_file(
    config: str,
    out: str | Path,
    arch: str | None = None,
    checkpoint: str | None = None,
    backbone: str = CARE,
) -> Swap:
    """Write a config that has CARE or a peer as the backbone of the model of another config.

    Before the file is written, the new model is built and run on a blank image, and the weights
    are loaded if they exist already. If the original model fails in the same way as the new one,
    the file is written with a remark.

    Args:
        config: A file, or ``mmdet::folder/config.py``, ``mmseg::folder/config.py``.
        out: The file to write; it must not exist.
        arch: The size of the backbone; ``None`` for its default.
        checkpoint: Weights of the backbone; default: see :func:`swap_backbone`.
        backbone: A name of :data:`care_mm.swap.choices.NAMES`, or ``timm:NAME``.

    Raises:
        InputError: As :func:`care_mm.swap.backbone.swap_backbone`; or ``out`` is not a new ``.py``
            file, the new model does not run where the original does, or the weights do not fit.
    """
    out = Path(out)
    if out.suffix != ".py":
        raise InputError(f"--out {out}: a config's name ends in .py")
    refuse_existing(out, "--out")
    choose(backbone, arch)  # an unknown name is no fault of the config
    source = read(config)
    try:
        swap = swap_backbone(source.config, arch, checkpoint, backbone)
        if remark := try_model(swap.config, source.config):
            swap.remarks[("model",)] = remark
    except InputError as error:
        raise InputError(f"{config}: {error}") from error
    if Path(swap.checkpoint).is_file():
        load_pretrained(swap.choice.build(swap.out_indices, device="cpu"), swap.checkpoint)
    text = swap_text(swap, source, out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}") from error
    return swap


def swap_text(swap: Swap, source: Source, out: str | Path) -> str:
    """Return the difference to ``source`` as the text of a config file at ``out``."""
    base = _base_reference(source, Path(out))
    text = _comment(
        f"{swap.choice.label} in place of {swap.old_backbone}, by tools/swap_backbone.py."
    )
    if "::" in source.name and base != source.name:
        text += _comment(f"{source.name} by its path, since mmengine does not find that name.")
    text += f"_base_ = {base!r}\n\n"
    changes = dict(swap.changes)
    for key in ("custom_imports", "model", *changes):
        if key in changes:
            remark = _comment(swap.remarks.get((key,), ""))
            text += f"{remark}{key} = {_expression(changes.pop(key), (key,), swap.remarks)}\n"
    return FormatCode(text + _our_optimizer(swap), style_config=STYLE)[0]


def _base_reference(source: Source, out: Path) -> str:
    """Return the value of ``_base_`` in ``out``.

    That is a name like ``mmdet::...`` if mmengine accepts it, a relative path if both files are
    below the current folder, and an absolute path otherwise.
    """
    if "::" in source.name and _mmengine_finds(source.name):
        return source.name
    base, folder, cwd = source.path.resolve(), out.resolve().parent, Path.cwd().resolve()
    if base.is_relative_to(cwd) and folder.is_relative_to(cwd) and "::" not in source.name:
        return Path(os.path.relpath(base, folder)).as_posix()
    return base.as_posix()


def _mmengine_finds(name: str) -> bool:
    try:
        Config.fromstring(f"_base_ = {name!r}", ".py")
    except Exception:  # mmengine raises many types: not installed, not indexed, no such file
        return False
    return True


def _our_optimizer(swap: Swap) -> str:
    """Return the optimizer of our own configs as a comment, unless the config has AdamW."""
    optimizer = (swap.config.get("optim_wrapper") or {}).get("optimizer") or {}
    if optimizer.get("type") in (None, "AdamW"):
        return ""
    inherited = f"{optimizer['type']}, lr={optimizer.get('lr')}"
    batch, recipe = RECIPES[swap.config.default_scope]
    remark = _comment(
        f"The optimizer ({inherited}) and the schedule are those of the base. Our own configs with "
        f"CARE use this optimizer, with {batch} images per step:"
    )
    recipe = _expression(dict(optimizer={"_delete_": True, **recipe}))
    return f"\n{remark}# optim_wrapper = {recipe}\n"


def _comment(text: str, depth: int = 0) -> str:
    """Return a comment that stays within the line after yapf has indented it."""
    width = WIDTH - 4 * depth - len("# ")
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _expression(value: Any, path: tuple = (), remarks: Mapping[tuple, str] | None = None) -> str:
    """Return a value as Python in the style of configs, ``dict(...)``, with remarks as comments."""
    if not isinstance(value, Mapping | list | tuple):
        return repr(value)
    if isinstance(value, Mapping):
        are_names = all(str(k).isidentifier() and not keyword.iskeyword(str(k)) for k in value)
        label, opening, closing = ("{}=", "dict(", ")") if are_names else ("{!r}: ", "{", "}")
    else:
        label, opening, closing = ("", "[", "]") if isinstance(value, list) else ("", "(", ")")
        if isinstance(value, tuple) and len(value) == 1:
            closing = ",)"
        value = dict(enumerate(value))
    items = []
    for key, item in value.items():
        remark = _comment((remarks or {}).get((*path, key), ""), len(path))
        before = f"\n{remark}" if remark else ""
        items.append(before + label.format(key) + _expression(item, (*path, key), remarks))
    return opening + ", ".join(items) + closing
