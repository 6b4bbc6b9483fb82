"""The configs of care_mm by name: ``care_mm::maskrcnn_care_s1_coco.py``, from any folder.

The wheel has them in ``care_mm/.mim``, as the MM packages do. A source tree has them next to the
package. mmengine itself resolves such names for a fixed list of packages only, and would build the
classes of the base in a scope of the package's name, which care_mm does not have.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import mmengine.hub
from mmengine.config import Config

from care_mm.errors import InputError, did_you_mean

PREFIX = "care_mm::"
MM_PACKAGES = ("mmdet", "mmseg", "mmpretrain")
PACKAGE = Path(__file__).parent
MIM = PACKAGE / ".mim"

_mmengine_path = Config._get_cfg_path
_mmengine_config = mmengine.hub.get_config


def shipped_config(name: str) -> Path:
    """Return the file of ``care_mm::folder/name.py``.

    Raises:
        InputError: care_mm has no such config (a close name is suggested).
    """
    folder = (MIM if MIM.is_dir() else PACKAGE.parent) / "configs"
    path = folder / name.removeprefix(PREFIX)
    if not path.is_file():
        known = (file.relative_to(folder).as_posix() for file in folder.rglob("*.py"))
        hint = did_you_mean(name.removeprefix(PREFIX), known, f"{PREFIX}{{}}".format)
        raise InputError(f"{name}: care_mm has no such config{hint}")
    return path


def packaged_config(name: str) -> Path:
    """Return the file of ``package::folder/name.py``, a config of care_mm or of an MM package.

    Raises:
        InputError: The package is unknown or not installed, or has no such config (a close name is
            suggested).
    """
    if name.startswith(PREFIX):
        return shipped_config(name)
    package, _, relative = name.partition("::")
    if package not in MM_PACKAGES:
        known = ", ".join(f"{known}::" for known in ("care_mm", *MM_PACKAGES))
        raise InputError(f"config {name}: there is {known}, but no {package}::")
    folder = _configs_of(package)
    path = folder / relative
    if not path.is_file():
        known = (file.relative_to(folder).as_posix() for file in folder.glob("*/*.py"))
        hint = did_you_mean(relative, known, f"{package}::{{}}".format)
        raise InputError(f"config {name}: {package} has no such config{hint}")
    return path


def _configs_of(package: str) -> Path:
    """Return the folder with the configs of an installed package.

    mmengine looks for them under the name of the distribution, which differs for some builds of
    mmseg. The folder of the module has them under any name.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"{package}:: needs {package}, which is not installed")
    module = Path(spec.origin).parent
    for folder in (module / ".mim" / "configs", module.parent / "configs"):
        if folder.is_dir():
            return folder
    raise InputError(f"{package}:: finds no configs in {module}: it was installed without them")


def _config_path(name: str, filename: str) -> tuple[str, str | None]:
    """Return the file that ``_base_`` names in ``filename``, and the scope of its classes."""
    if name.startswith(PREFIX):
        return str(shipped_config(name)), None
    return _mmengine_path(name, filename)


def get_config(cfg_path: str, pretrained: bool = False) -> Config:
    """Read a config by its name; see :func:`mmengine.hub.get_config`, which this replaces.

    Args:
        cfg_path: ``care_mm::...``, or the name of a config of another package.
        pretrained: Whether to add the URL of weights as ``model_path``.

    Raises:
        InputError: care_mm has no such config, or is asked for weights, which it does not publish.
    """
    if not cfg_path.startswith(PREFIX):
        return _mmengine_config(cfg_path, pretrained)
    if pretrained:
        raise InputError(f"{cfg_path}: care_mm publishes no weights; see docs/checkpoints.md")
    return Config.fromfile(shipped_config(cfg_path))


Config._get_cfg_path = staticmethod(_config_path)
mmengine.hub.get_config = mmengine.hub.hub.get_config = get_config
