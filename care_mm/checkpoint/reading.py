"""Safe checkpoint reading: no code in a file is executed unless --trust-checkpoint allows it."""

from __future__ import annotations

import argparse
import logging
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from pickle import UnpicklingError
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.utils import digit_version

from care_mm.checkpoint.names import StateDict
from care_mm.checkpoint.pickles import pickle_module
from care_mm.checkpoint.writing import SAFETENSORS
from care_mm.errors import InputError
from care_mm.files import sha256_of

URL_SCHEMES = ("http://", "https://")
FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch's own switch
# Keys that may hold the weights, in order of preference.
WEIGHTS = ("state_dict", "model", "net")
EMA_WEIGHTS = ("state_dict_ema", "model_ema", "net_E")
# Whether files that the safe reader rejects are unpickled anyway; see `trusting`.
_TRUSTING = ContextVar("care_mm_trusting", default=False)


@contextmanager
def trusting() -> Iterator[None]:
    """Unpickle files that the safe reader rejects, inside this context.

    This executes any code in the file. Only ``--trust-checkpoint`` uses it.
    """
    token = _TRUSTING.set(True)
    try:
        yield
    finally:
        _TRUSTING.reset(token)


def _history_buffer_method(owner: type, name: str) -> object:
    """Replace ``getattr`` by the few look-ups that mmengine's log buffers need."""
    if owner is HistoryBuffer and name in ("min", "max", "current", "mean"):
        return getattr(owner, name)
    raise UnpicklingError(f"getattr({owner!r}, {name!r}) is not allowed in a checkpoint")


def _allowed_globals() -> list:
    """Return the harmless classes that checkpoints of mmengine and timm hold next to tensors."""
    # NumPy 1.26 has numpy._core as well, but without the names needed here.
    core = np.core if np.__version__.startswith("1.") else np._core
    multiarray = core.multiarray
    dtypes = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}
    return [
        argparse.Namespace,
        HistoryBuffer,
        slice,
        np.ndarray,
        np.dtype,
        *sorted(dtypes, key=lambda dtype: dtype.__name__),
        multiarray._reconstruct,
        multiarray.scalar,
        *(
            (multiarray._reconstruct, f"numpy.{m}.multiarray._reconstruct")
            for m in ("core", "_core")
        ),
        *((multiarray.scalar, f"numpy.{m}.multiarray.scalar") for m in ("core", "_core")),
        (_history_buffer_method, "builtins.getattr"),
        (_history_buffer_method, "__builtin__.getattr"),
    ]


def _reason(error: Exception) -> str:
    """Return the error as one line, without torch's advice to read the file unsafely."""
    if isinstance(error.__context__, UnpicklingError):
        error = error.__context__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = re.split(r" (?:Please use|In PyTorch 2\.6)", lines[0])[0]
    return "".join(c if c.isprintable() else "?" for c in reason)  # the reason may quote the file


def local_file(path: str | Path) -> Path:
    """Return the path of a file; download a URL into torch's hub cache first, once.

    Raises:
        InputError: There is no such file, or the download failed.
    """
    name = str(path)
    if not name.startswith(URL_SCHEMES):
        path = Path(name).expanduser()
    else:
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(name).path).name
        try:
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(name, str(path))
        except OSError as error:
            raise InputError(f"checkpoint {name}: could not be downloaded ({error})") from error
    if not path.is_file():
        raise InputError(f"checkpoint {name}: no such file")
    return path


def _refuse_empty_and_pages(path: Path) -> None:
    """Refuse the usual results of a failed download.

    Raises:
        UnpicklingError: The file is empty or a web page.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise UnpicklingError("the file is empty")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UnpicklingError("it is a web page: the download did not give the file")


def _refuse_bad_archives(path: Path) -> None:
    """Refuse archives that ``torch.load`` does not check.

    torch ignores the checksums of a zip file. Before 2.6 it also runs pickled code in a tar file,
    with or without ``weights_only``, and loads TorchScript.

    Raises:
        UnpicklingError: The archive is damaged or of another kind.
    """
    if tarfile.is_tarfile(path):
        raise UnpicklingError("not a zip file or pickle as torch.save writes them")
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise UnpicklingError("a TorchScript program")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise UnpicklingError("a zip file that torch.save did not write")
        damaged = archive.testzip()
    if damaged is not None:
        raise UnpicklingError(f"wrong checksum of {damaged}")


@contextmanager
def _not_forced() -> Iterator[None]:
    """Suspend TORCH_FORCE_WEIGHTS_ONLY_LOAD.

    It rejects both a custom ``pickle_module`` and ``weights_only=False``.
    """
    forced = os.environ.pop(FORCE_WEIGHTS_ONLY, None)
    try:
        yield
    finally:
        if forced is not None:
            os.environ[FORCE_WEIGHTS_ONLY] = forced


def _read_trusted(path: Path, map_location: str | None) -> object:
    print_log(
        f"--trust-checkpoint: unpickling {path}, which can run any program with your rights; do "
        "this only with files from sources that you trust",
        logger="current",
        level=logging.WARNING,
    )
    with _not_forced():
        return torch.load(path, map_location=map_location, weights_only=False)


def _check_sha256(path: Path) -> None:
    """Compare the file with the ``<name>.sha256`` next to it, if any, as ``sha256sum`` writes it.

    Raises:
        InputError: They differ.
    """
    note = path.with_name(path.name + ".sha256")
    if note.is_file():
        expected = (note.read_text(errors="replace").split() or [""])[0].lower()
        actual = sha256_of(path)
        if actual != expected:
            raise InputError(
                f"checkpoint {path}: its SHA-256 is {actual[:8]}..., {note.name} says "
                f"{expected[:8] or 'nothing'}...: get the file again"
            )


def _read_torch(path: Path, map_location: str | None) -> object:
    try:
        return _read_torch_safely(path, map_location)
    except Exception:
        if not _TRUSTING.get():
            raise
    return _read_trusted(path, map_location)


def _read_torch_safely(path: Path, map_location: str | None) -> object:
    _refuse_bad_archives(path)
    if digit_version(torch.__version__) >= digit_version("2.6"):
        with torch.serialization.safe_globals(_allowed_globals()):
            return torch.load(path, map_location=map_location, weights_only=True)
    # Older versions accept no (object, name) pairs in their allow-list.
    narrow = pickle_module(_allowed_globals())
    with _not_forced():
        return torch.load(path, map_location=map_location, pickle_module=narrow, weights_only=False)


def _read_safetensors(path: Path, map_location: str | None) -> dict:
    try:
        from safetensors import safe_open
    except ImportError:
        raise InputError(f"checkpoint {path}: reading it needs `pip install safetensors`") from None
    with safe_open(path, framework="pt", device=str(map_location or "cpu")) as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, not a mapping
        return {"state_dict": state, "meta": dict(file.metadata() or {})}


def read_checkpoint(path: str | Path, map_location: str | None = "cpu") -> dict:
    """Read a checkpoint without executing any code in it.

    Files of ``torch.save`` are read with ``weights_only=True`` and a narrow allow-list. There is no
    fallback, except inside :func:`trusting`. If ``<name>.sha256`` exists next to the file, the
    checksum must agree.

    Args:
        path: A file of ``torch.save``, a ``.safetensors`` file, or the URL of one, which is
            downloaded once.
        map_location: As in ``torch.load``.

    Returns:
        The content of the file. For safetensors: ``state_dict``, and the metadata as ``meta``.

    Raises:
        InputError: The file is missing, is not a checkpoint, or holds something that is not
            allowed.
    """
    path = local_file(path)
    try:
        _check_sha256(path)
        _refuse_empty_and_pages(path)
        read = _read_safetensors if path.suffix == SAFETENSORS else _read_torch
        content = read(path, map_location)
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"checkpoint {path}: cannot be read ({error.strerror})") from error
    except Exception as error:
        raise InputError(
            f"checkpoint {path}: refused, it is damaged or holds more than weights "
            f"({_reason(error)})"
        ) from error
    if not isinstance(content, Mapping):
        raise InputError(f"checkpoint {path}: holds a {type(content).__name__}, not weights")
    return content


def _weight_keys(content: Mapping, ema: bool) -> list[str]:
    """Return the keys that hold weights, the preferred one first; none in a bare state dict."""
    order = EMA_WEIGHTS + WEIGHTS if ema else WEIGHTS + EMA_WEIGHTS
    nested = {key: content[key] for key in order if isinstance(content.get(key), Mapping)}
    return [key for key in nested if any(map(torch.is_tensor, nested[key].values()))]


def other_weights(content: Mapping, ema: bool = False) -> str:
    """Return a log suffix that names which of two sets of weights is used; empty for one set."""
    used, *ignored = _weight_keys(content, ema) or [""]
    return f" (its {used}; {' and '.join(ignored)} left out)" if ignored else ""


def state_dict_of(content: Mapping, path: str | Path, ema: bool = False) -> StateDict:
    """Return the weights in a checkpoint, nested or not, without DataParallel's ``module.``.

    Args:
        content: From :func:`read_checkpoint`.
        path: How errors refer to the file.
        ema: Use the EMA of the weights. If the file holds nothing else, the EMA is always used.

    Raises:
        InputError: The file has no weights, or they are not ordinary tensors.
    """
    keys = _weight_keys(content, ema)
    if ema and not set(keys[:1]) & set(EMA_WEIGHTS):
        raise InputError(f"checkpoint {path}: no {' or '.join(EMA_WEIGHTS)} in it")
    weights = content[keys[0]] if keys else content
    tensors = {
        re.sub(r"^(module\.|_orig_mod\.)+", "", str(key)): value
        for key, value in weights.items()
        if torch.is_tensor(value)
    }
    if not tensors:
        raise InputError(f"checkpoint {path}: no weights in it (keys: {list(content)[:5]})")
    for key, value in tensors.items():
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise InputError(f"checkpoint {path}: {key!r} is sparse, quantised or without data")
    return tensors
