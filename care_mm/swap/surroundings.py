"""What a new backbone asks of the rest of a config: weights, pictures, optimizer, imports."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import Config, ConfigDict

from care_mm.config import is_pretrained, without_pretrained

MEAN = [123.675, 116.28, 103.53]  # ImageNet's, RGB: what CARE was trained with
STD = [58.395, 57.12, 57.375]
DIVISOR = 32  # CARE floors odd sizes: padding keeps every map at its exact stride

PREPROCESSORS = {
    "mmdet": {"type": "DetDataPreprocessor"},
    "mmseg": {"type": "SegDataPreProcessor", "pad_val": 0, "seg_pad_val": 255},
}
# These take the sides of what the backbone sees for those of the picture.
NO_PADDING = ("YOLACT",)
# Optimizer wrappers that look up the depth of a layer by the names of one family of backbones.
LAYER_DECAY = ("LearningRateDecayOptimizerConstructor", "LayerDecayOptimizerConstructor")

Remarks = dict[tuple, str]


def drop_old_weights(config: Config, prefix: tuple[str, ...], remarks: Remarks) -> None:
    """Nothing loads weights of the old backbone, or of a model with it.

    Args:
        config: Changed in place.
        prefix: Keys from ``model`` to the dict that has the backbone.
        remarks: Gets one for ``load_from``.
    """
    old = config.model
    config.model = without_pretrained(old)
    new = config.model  # the assignment copied it
    for key in (*prefix, None):
        # None, where the key could just go: a short difference can set one, but not delete it.
        if is_pretrained(old.get("init_cfg") or {}):
            new["init_cfg"] = None
        if old.get("pretrained") is not None:
            new["pretrained"] = None
        if key is not None:
            old, new = old[key], new[key]
    if config.get("load_from"):
        remarks[("load_from",)] = f"{config.load_from} was trained with the old backbone."
        config.load_from = None


def normalise(config: Config, scope: str) -> None:
    """Pictures come in RGB with ImageNet's statistics, and with sides that 32 divides."""
    holder = config.model if "data_preprocessor" in config.model else config
    if "data_preprocessor" not in holder:
        holder = config.model
        holder.data_preprocessor = ConfigDict(PREPROCESSORS[scope])
    settings = holder["data_preprocessor"]
    while isinstance(settings.get("data_preprocessor"), Mapping):  # one per branch, one inside
        settings = settings.data_preprocessor
    settings.update(mean=list(MEAN), std=list(STD), bgr_to_rgb=True)
    if settings.get("rgb_to_bgr"):
        settings.rgb_to_bgr = False
    if scope == "mmdet":
        if settings.get("pad_size_divisor", 1) % DIVISOR and config.model.type not in NO_PADDING:
            settings.pad_size_divisor = DIVISOR
    elif not {"size", "size_divisor"} & set(settings.get("test_cfg") or ()):
        settings.test_cfg = ConfigDict(size_divisor=DIVISOR)


def settle_optimizer(config: Config, remarks: Remarks) -> None:
    """No learning rates by depth: they go by names that CARE's layers do not have."""
    wrapper = config.get("optim_wrapper")
    if isinstance(wrapper, Mapping) and wrapper.get("constructor") in LAYER_DECAY:
        remarks[("optim_wrapper",)] = (
            f"Without {wrapper.constructor}, which knows the old backbone's layers only."
        )
        del wrapper["constructor"]
        wrapper.pop("paramwise_cfg", None)


def add_import(config: Config) -> None:
    """``custom_imports`` brings care_mm along, after whatever it has."""
    given = dict(config.get("custom_imports") or {"allow_failed_imports": False})
    modules = given.pop("imports", None) or []
    modules = [modules] if isinstance(modules, str) else list(modules)
    if "care_mm" not in modules:
        modules.append("care_mm")
    config.custom_imports = ConfigDict(imports=modules, **given)
