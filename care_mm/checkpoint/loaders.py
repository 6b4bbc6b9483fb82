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
    """Read a checkpoint for mmengine, with the weights under ``state_dict``.

    mmengine looks for weights under this key only, and continues silently if there are none. It
    logs the part of a loader's name after ``load_from_``.

    Raises:
        InputError: As :func:`read_checkpoint` and :func:`state_dict_of`.
    """
    content = read_checkpoint(path, map_location)
    weights = state_dict_of(content, path)
    if list(content.get("state_dict", ())) == list(weights):
        return content  # this state dict also carries the versions of its modules
    other = {key: value for key, value in content.items() if not torch.is_tensor(value)}
    return {**other, "state_dict": weights}


def load_from_name_table(name: str, map_location: str | None = None) -> dict:
    """Download and read a model of mmengine's tables, such as ``torchvision://resnet50``.

    Raises:
        InputError: Unknown scheme or name, or a file that :func:`read_checkpoint` refuses.
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
        raise InputError(f"checkpoint {name}: mmengine has no URL for it, give a file or URL")
    content = load_from_care_mm(url, map_location)
    if scheme != "mmcls":
        return content
    # The file holds a classifier; mmengine expects the backbone.
    state, prefix = content["state_dict"], "backbone."
    return {"state_dict": {k.removeprefix(prefix): state[k] for k in state if k.startswith(prefix)}}


@contextmanager
def safe_loading() -> Iterator[None]:
    """Make mmengine read checkpoints (load_from, resume) with :func:`read_checkpoint`.

    mmengine's own loaders fall back to running pickled code. Inside this context, ``torch.load``
    also uses ``weights_only=True``, whoever calls it. Loaders registered by other packages stay.
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
