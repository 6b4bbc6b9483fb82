"""Make mmengine's own checkpoint loading as safe as :func:`read_checkpoint`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.runner import (
    CheckpointLoader,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from care_mm.checkpoint.reading import (
    FORCE_WEIGHTS_ONLY,
    URL_SCHEMES,
    read_checkpoint,
    state_dict_of,
)
from care_mm.errors import InputError


def load_from_care_mm(path: str, map_location: str | None = None) -> dict:
    """:func:`read_checkpoint` for mmengine, which logs a loader by the end of its name.

    The weights are where mmengine looks for them, whatever the form of the file. It would go on
    without a word where it finds none.

    Raises:
        InputError: As :func:`read_checkpoint` and :func:`state_dict_of`.
    """
    content = read_checkpoint(path, map_location)
    weights = state_dict_of(content, path)
    if list(content.get("state_dict", ())) == list(weights):
        return content  # with the versions of its modules, which the state dict carries
    beside = {k: v for k, v in content.items() if not torch.is_tensor(v)}
    return {**beside, "state_dict": weights}


def load_from_name_table(name: str, map_location: str | None = None) -> dict:
    """Download what mmengine calls ``torchvision://...`` or ``open-mmlab://...``, and read it.

    Raises:
        InputError: Another scheme, an unknown name, or what :func:`read_checkpoint` refuses.
    """
    scheme, _, key = name.partition("://")
    if scheme in ("torchvision", "modelzoo"):
        url = get_torchvision_models().get(key)
    elif scheme in ("open-mmlab", "openmmlab"):
        url = get_external_models().get(get_deprecated_model_names().get(key, key))
    elif scheme == "mmcls":
        url = get_mmcls_models().get(key)
    else:
        raise InputError(f"checkpoint {name}: {scheme}:// is not read safely, give a file or URL")
    if url is None or not url.startswith(URL_SCHEMES):
        raise InputError(f"checkpoint {name}: mmengine has no address for it, give a file or URL")
    content = load_from_care_mm(url, map_location)
    if scheme != "mmcls":
        return content
    state, prefix = content["state_dict"], "backbone."  # of a classifier, asked for its backbone
    return {"state_dict": {k.removeprefix(prefix): state[k] for k in state if k.startswith(prefix)}}


@contextmanager
def safe_loading() -> Iterator[None]:
    """Within this context mmengine reads checkpoints (load_from, resume) with
    :func:`read_checkpoint`, in place of a loader that falls back to running pickled code, and
    ``torch.load`` keeps to ``weights_only=True`` whoever calls it. Loaders that others have
    registered stay.
    """
    schemes = dict(CheckpointLoader._schemes)
    forced = os.environ.get(FORCE_WEIGHTS_ONLY)
    for prefix, loader in schemes.items():
        if loader.__module__.startswith("mmengine."):
            ours = load_from_care_mm if prefix in ("", *URL_SCHEMES) else load_from_name_table
            CheckpointLoader.register_scheme(prefix, ours, force=True)
    os.environ[FORCE_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        CheckpointLoader._schemes.clear()
        CheckpointLoader._schemes.update(schemes)
        if forced is None:
            os.environ.pop(FORCE_WEIGHTS_ONLY, None)
        else:
            os.environ[FORCE_WEIGHTS_ONLY] = forced
