"""Adapt the rest of a config to the new backbone: weights, normalisation, optimizer, imports."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import Config, ConfigDict

from care_mm.config import is_pretrained, without_pretrained

# The numbers of our own configs in configs/_base_; tests/swap/test_adapt.py compares them.
MEAN = [123.675, 116.28, 103.53]  # of ImageNet in RGB, as CARE and its peers were trained
STD = [58.395, 57.12, 57.375]
DIVISOR = 32  # backbones round odd sizes down or up; padding keeps every map at its exact stride
PREPROCESSORS = {
    "mmdet": {"type": "DetDataPreprocessor"},
    "mmseg": {"type": "SegDataPreProcessor", "pad_val": 0, "seg_pad_val": 255},
}

# Detectors that take the padded size for the size of the image.
NO_PADDING = ("YOLACT",)
# Optimizer wrappers that derive the depth of a layer from the names of one backbone family.
LAYER_DECAY = ("LearningRateDecayOptimizerConstructor", "LayerDecayOptimizerConstructor")

Remarks = dict[tuple, str]


def drop_old_weights(config: Config, prefix: tuple[str, ...], remarks: Remarks) -> None:
    """Remove the weights of the old backbone, and those of a model trained with it.

    Args:
        config: Changed in place.
        prefix: Keys from ``model`` to the dict that holds the backbone.
        remarks: Gets a remark for ``load_from``.
    """
    old = config.model
    config.model = without_pretrained(old)
    new = config.model  # the assignment copied it
    for key in (*prefix, None):
        # None instead of no key, because a difference to the base can set but not delete a key.
        if is_pretrained(old.get("init_cfg") or {}):
            new["init_cfg"] = None
        if old.get("pretrained") is not None:
            new["pretrained"] = None
        if key is not None:
            old, new = old[key], new[key]
    if config.get("load_from"):
        remarks[("load_from",)] = f"{config.load_from} was trained with the old backbone."
        config.load_from = None


def normalise(
    config: Config, scope: str, statistics: tuple[list[float], list[float]] | None = None
) -> None:
    """Set RGB input, its mean and deviation, and image sides divisible by 32.

    Args:
        config: Changed in place.
        scope: ``'mmdet'`` or ``'mmseg'``.
        statistics: Mean and deviation in RGB, from 0 to 255; ``None`` for ImageNet's.
    """
    mean, deviation = statistics or (MEAN, STD)
    holder = config.model if "data_preprocessor" in config.model else config
    if "data_preprocessor" not in holder:
        holder = config.model
        holder.data_preprocessor = ConfigDict(PREPROCESSORS[scope])
    settings = holder["data_preprocessor"]
    # Semi-supervised detectors wrap the preprocessor in one with several branches.
    while isinstance(settings.get("data_preprocessor"), Mapping):
        settings = settings.data_preprocessor
    settings.update(mean=list(mean), std=list(deviation), bgr_to_rgb=True)
    if settings.get("rgb_to_bgr"):
        settings.rgb_to_bgr = False
    if scope == "mmdet":
        if settings.get("pad_size_divisor", 1) % DIVISOR and config.model.type not in NO_PADDING:
            settings.pad_size_divisor = DIVISOR
    elif not {"size", "size_divisor"} & set(settings.get("test_cfg") or ()):
        settings.test_cfg = ConfigDict(size_divisor=DIVISOR)


def drop_layer_decay(config: Config, remarks: Remarks) -> None:
    """Remove learning rates by depth, which depend on the layer names of the old backbone."""
    wrapper = config.get("optim_wrapper")
    if isinstance(wrapper, Mapping) and wrapper.get("constructor") in LAYER_DECAY:
        remarks[("optim_wrapper",)] = (
            f"{wrapper.constructor} is removed, because it knows only the old backbone's layers."
        )
        del wrapper["constructor"]
        wrapper.pop("paramwise_cfg", None)


def add_import(config: Config, module: str) -> None:
    """Append ``care_mm`` or one of its packages to ``custom_imports``."""
    imports = dict(config.get("custom_imports") or {"allow_failed_imports": False})
    modules = imports.pop("imports", None) or []
    modules = [modules] if isinstance(modules, str) else list(modules)
    if module not in modules:
        modules.append(module)
    config.custom_imports = ConfigDict(imports=modules, **imports)
