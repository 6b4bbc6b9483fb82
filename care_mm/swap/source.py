"""Where a config comes from: a file, or one that ships with mmdet or mmseg."""

from __future__ import annotations

import difflib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from care_mm.config import load_config
from care_mm.errors import InputError

PACKAGES = ("mmdet", "mmseg")


@dataclass(frozen=True)
class Source:
    """A config that was read.

    Args:
        name: As the user gave it, maybe with ``mmdet::`` or ``mmseg::``.
        path: The file.
        config: What it says.
    """

    name: str
    path: Path
    config: Config


def shipped_configs(package: str) -> Path:
    """The folder with the configs of an installed package.

    mmengine looks them up under the name of the distribution, which is another one for some
    builds of mmseg; the module's own folder holds them under any name.

    Raises:
        InputError: The package is not installed, or came without configs.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"{package}:: needs {package}, which is not installed")
    module = Path(spec.origin).parent
    for folder in (module / ".mim" / "configs", module.parent / "configs"):
        if folder.is_dir():
            return folder
    raise InputError(f"{package}:: finds no configs in {module}: it was installed without them")


def resolve(name: str) -> Path:
    """The file behind ``path/to/config.py``, ``mmdet::folder/config.py`` or ``mmseg::...``.

    Raises:
        InputError: Another package, or no such config in it; close names are suggested.
    """
    package, separator, rest = name.partition("::")
    if not separator:
        return Path(name)
    if package not in PACKAGES:
        raise InputError(f"config {name}: knows {' and '.join(f'{p}::' for p in PACKAGES)} only")
    folder = shipped_configs(package)
    path = folder / rest
    if not path.is_file():
        known = [file.relative_to(folder).as_posix() for file in folder.glob("*/*.py")]
        near = difflib.get_close_matches(rest, known, n=1)
        hint = f"; did you mean {package}::{near[0]}?" if near else ""
        raise InputError(f"config {name}: {package} has no such config{hint}")
    return path


def read(name: str) -> Source:
    """Read a config by file name or by package.

    Raises:
        InputError: As :func:`resolve`, and for a file that does not parse.
    """
    path = resolve(name)
    return Source(name, path, load_config(path))


def _mmengine_finds(name: str) -> bool:
    try:
        Config.fromstring(f"_base_ = {name!r}", ".py")
    except Exception:  # not installed under that name, not indexed: it has many ways to say so
        return False
    return True


def base_reference(source: Source, out: Path) -> str:
    """What ``_base_`` is to say in ``out``.

    A name like ``mmdet::...`` where mmengine accepts it, a relative path within the folder that
    the user works in, an absolute path otherwise.
    """
    if "::" in source.name and _mmengine_finds(source.name):
        return source.name
    base, folder, here = source.path.resolve(), out.resolve().parent, Path.cwd().resolve()
    if base.is_relative_to(here) and folder.is_relative_to(here) and "::" not in source.name:
        return Path(os.path.relpath(base, folder)).as_posix()
    return base.as_posix()
