"""The measured models: our sizes and timm's models by name, and the model of any config."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from care_mm import complexity
from care_mm.config import find, load_config
from care_mm.errors import InputError
from care_mm.export.stand_in import is_exported
from care_mm.models.arch import ARCHS
from care_mm.peers import systems
from care_mm.tasks import Task, default_shape, task_of_model

# ImageNet-1K top-1 in percent, as published: ours on the authors' release page, the others in
# their papers (the distilled model at 224 pixels if there are several).
PUBLISHED_TOP1 = {
    "care_s0": 78.4,
    "care_s1": 80.1,
    "care_s2": 82.1,
    "efficientformerv2_s0": 75.7,
    "efficientformerv2_s1": 79.0,
    "efficientformerv2_s2": 81.6,
    "repvit_m0_9": 78.7,
    "repvit_m1_0": 80.0,
    "repvit_m1_1": 80.7,
    "repvit_m1_5": 82.3,
    "fastvit_t8": 76.7,
    "fastvit_t12": 80.3,
    "fastvit_sa12": 81.9,
    "efficientvit_b1": 79.4,
    "mobilenetv2_100": 72.0,
    "resnet50": 76.1,
    "swin_tiny_patch4_window7_224": 81.3,
    "convnext_tiny": 82.1,
}
_CLASSIFIER_SHAPE = (224, 224)


class Adapter(nn.Module):
    """A model that is called with images (B, 3, H, W) alone.

    Args:
        model: Any model.
        call: Calls the model on images and returns its outputs.
        exported: The part of an MM model that :func:`care_mm.export.graphs.graph_of` writes, by
            its name there; ``None`` for models that are exported as they are called.
    """

    def __init__(
        self,
        model: nn.Module,
        call: Callable[[nn.Module, Tensor], object],
        exported: str | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.call = call
        self.exported = exported

    def forward(self, images: Tensor) -> object:
        """Return the outputs for images (B, 3, H, W)."""
        return self.call(self.model, images)


def _pyramid(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    return tuple(model(images))


def _outputs(model: nn.Module, images: Tensor) -> object:
    return model(images, mode="tensor")


def _segmentation(model: nn.Module, images: Tensor) -> Tensor:
    return model.encode_decode(images, [{"img_shape": tuple(images.shape[2:])}] * len(images))


def _detections(model: nn.Module, images: Tensor) -> object:
    from mmdet.structures import DetDataSample

    keys = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
    meta = dict.fromkeys(keys, tuple(images.shape[2:])) | {"scale_factor": (1.0, 1.0)}
    samples = [DetDataSample(metainfo=meta) for _ in images]
    return model(images, samples, mode="predict")


CALLS = {
    Task.CLASSIFICATION: _outputs,
    Task.SEGMENTATION: _segmentation,
    Task.DETECTION: _detections,
}


def is_config(name: str) -> bool:
    """Whether a model is named by a config."""
    return name.endswith((".py", ".json", ".yml", ".yaml")) or "::" in name


def label(name: str) -> str:
    """Return the name of a model in tables: that of a config or a file is without its folder."""
    if is_config(name):
        return Path(name.rpartition("::")[2]).stem
    return Path(name).name if is_exported(name) else name.replace(":", "_")


def shape_of(name: str) -> tuple[int, int]:
    """Return the (H, W) at which a model of that name is usually measured.

    Raises:
        InputError: There is no such config, or it has no task.
    """
    return default_shape(load_config(name)) if is_config(name) else _CLASSIFIER_SHAPE


def build(
    name: str, what: str, shape: tuple[int, int] = _CLASSIFIER_SHAPE, classes: int | None = None
) -> nn.Module:
    """Build a model in evaluation mode, called with (B, 3, H, W), with random weights.

    Args:
        name: ``care_s0``, ``care_s1``, ``care_s2``, the name of a timm model, ``NAME:SIZE`` for a
            system of :mod:`care_mm.peers.systems`, or a config (a file, or ``mmdet::...``).
        what: One of :data:`care_mm.export.graphs.WHAT`. The whole model of a name is a classifier.
        shape: Height and width of the input, for models with a fixed input size.
        classes: Number of classes of all heads of a config; ``None`` leaves them.

    Raises:
        InputError: The name is unknown, or the model has no such part.
    """
    torch.manual_seed(0)
    if is_config(name):
        model = _build_config(name, what, classes)
    else:
        model = _build_named(name, what, shape)
    return enliven(model.eval())


def _build_named(name: str, what: str, shape: tuple[int, int]) -> nn.Module:
    if what not in ("model", "backbone"):
        raise InputError(f"{name}: --what {what} is for the detector of a config")
    if ":" in name:
        return _build_system(*systems.split(name), what)
    arch = name.removeprefix("care_")
    if name != arch and arch in ARCHS:
        return _build_ours(arch, what)
    try:
        import timm
    except ImportError as error:
        raise InputError(f"peer {name}: needs timm: pip install timm") from error
    if not timm.is_model(name):
        ours = ", ".join(f"care_{arch}" for arch in ARCHS)
        raise InputError(f"{name}: neither one of {ours}, nor a timm model, nor a config")
    # Models such as Swin compute windows or positions for one size.
    fixed = getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
    size = {"img_size": shape} if fixed else {}
    if what == "model":
        return timm.create_model(name, **size)
    model = timm.create_model(name, features_only=True, **size)
    levels = [i for i, stride in enumerate(model.feature_info.reduction()) if 4 <= stride <= 32]
    if len(levels) < len(model.feature_info):
        model = timm.create_model(name, features_only=True, out_indices=levels, **size)
    return Adapter(model, _pyramid)


def _build_system(name: str, size: str, what: str) -> nn.Module:
    """Build one of the systems that the paper compares CARE with."""
    from care_mm import peers  # noqa: F401  registers

    if what == "backbone":
        return Adapter(MODELS.build(systems.backbone_config(name, size)), _pyramid)
    if name in systems.TIMM_MODELS:
        import timm

        return timm.create_model(systems.TIMM_MODELS[name][size])
    import mmpretrain.models  # noqa: F401  registers

    return Adapter(MODELS.build(systems.classifier_config(name, size)), _outputs)


def _build_ours(arch: str, what: str) -> nn.Module:
    from care_mm.models import backbone  # noqa: F401  registers

    config = dict(type="CARETransformer", arch=arch)
    if what == "backbone":
        return MODELS.build(config)
    import care_mm.models.classifier  # noqa: F401  registers

    width = MODELS.build(dict(config, out_indices=(3,))).out_channels[-1]
    classifier = dict(
        type="mmpretrain.ImageClassifier",
        backbone=dict(config, out_indices=(3,)),
        neck=dict(type="mmpretrain.GlobalAveragePooling"),
        head=dict(type="mmpretrain.CAREHead", num_classes=1000, in_channels=width),
    )
    return Adapter(MODELS.build(classifier), _outputs)


def _build_config(name: str, what: str, classes: int | None) -> nn.Module:
    config = load_config(name)
    if classes is not None:
        for head in find(config.get("model"), lambda node: "num_classes" in node):
            head.num_classes = classes
    model = complexity.build(config)
    if what == "backbone":
        return Adapter(model.backbone, _pyramid)
    if what == "raw-maps":
        return Adapter(model, _outputs, what)
    task = task_of_model(model)
    if task is None:
        raise InputError(f"config {name}: {type(model).__name__} is of no known task")
    return Adapter(model, CALLS[task], what)


@torch.no_grad()
def enliven(model: nn.Module) -> nn.Module:
    """Give batch norms and layer scales values as after training, in place.

    Layer scales of 1e-6 lead to denormal numbers a few layers later, which are slow on some CPUs.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("gamma", "layer_scale", ".ls.gamma")) and parameter.ndim == 1:
            parameter.uniform_(0.1, 0.3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) and module.track_running_stats:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@functools.cache
def macs(name: str, what: str, shape: tuple[int, int], classes: int | None = None) -> int | None:
    """Count the multiply-adds of convolutions, linear layers and attention for one image.

    A two-stage detector gets the maximum number of proposals and masks.

    Returns:
        The number, or ``None`` for an exported file.
    """
    if is_exported(name):
        return None
    model = build(name, what, shape, classes)
    if isinstance(model, Adapter) and model.exported:
        return complexity.count(model.model, shape).sum().products
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *shape))
    return counter.get_total_flops() // 2
