"""The measured models: our sizes and timm's models by name, and the model of any config."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from care_mm import complexity
from care_mm.config import load_config
from care_mm.errors import InputError
from care_mm.models.arch import ARCHS
from care_mm.tasks import Task

TASKS = ("backbone", *(task.model for task in Task))
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


class Adapter(nn.Module):
    """A model that is called with images (B, 3, H, W) alone.

    Args:
        model: Any model.
        call: Calls the model on images and returns its outputs.
    """

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, images: Tensor) -> object:
        """Return the outputs for images (B, 3, H, W)."""
        return self.call(self.model, images)


def _pyramid(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    return tuple(model(images))


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    return model(images, mode="tensor")


def _detections(model: nn.Module, images: Tensor) -> object:
    from mmdet.structures import DetDataSample

    keys = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
    meta = dict.fromkeys(keys, tuple(images.shape[2:])) | {"scale_factor": (1.0, 1.0)}
    samples = [DetDataSample(metainfo=meta) for _ in images]
    return model(images, samples, mode="predict")


def build(name: str, task: str, shape: tuple[int, int] = (224, 224)) -> nn.Module:
    """Build a model in evaluation mode, called with (B, 3, H, W), with random weights.

    Args:
        name: ``care_s0``, ``care_s1``, ``care_s2``, the name of a timm model, or a config (a file,
            or ``mmdet::...``).
        task: One of :data:`TASKS`. Segmentors and detectors are named by a config; ``'backbone'``
            builds the backbone of a config alone.
        shape: Height and width of the input, for models with a fixed input size.

    Raises:
        InputError: The name is unknown, or does not fit the task.
    """
    torch.manual_seed(0)
    model = _build_config(name, task) if _is_config(name) else _build_named(name, task, shape)
    return enliven(model.eval())


def _is_config(name: str) -> bool:
    return name.endswith((".py", ".json", ".yml")) or "::" in name


def _build_named(name: str, task: str, shape: tuple[int, int]) -> nn.Module:
    if task not in ("backbone", "classifier"):
        raise InputError(f"{name}: a {task} is named by its config, such as configs/*_care_s0_*.py")
    arch = name.removeprefix("care_")
    if name != arch and arch in ARCHS:
        return _build_ours(arch, task)
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
    if task == "classifier":
        return timm.create_model(name, **size)
    model = timm.create_model(name, features_only=True, **size)
    levels = [i for i, stride in enumerate(model.feature_info.reduction()) if 4 <= stride <= 32]
    if len(levels) < len(model.feature_info):
        model = timm.create_model(name, features_only=True, out_indices=levels, **size)
    return Adapter(model, _pyramid)


def _build_ours(arch: str, task: str) -> nn.Module:
    from care_mm.models import backbone  # noqa: F401  registers

    config = dict(type="CARETransformer", arch=arch)
    if task == "backbone":
        return MODELS.build(config)
    import care_mm.models.classifier  # noqa: F401  registers

    width = MODELS.build(dict(config, out_indices=(3,))).out_channels[-1]
    classifier = dict(
        type="mmpretrain.ImageClassifier",
        backbone=dict(config, out_indices=(3,)),
        neck=dict(type="mmpretrain.GlobalAveragePooling"),
        head=dict(type="mmpretrain.CAREHead", num_classes=1000, in_channels=width),
    )
    return Adapter(MODELS.build(classifier), _logits)


def _build_config(name: str, task: str) -> nn.Module:
    model = complexity.build(load_config(name))
    if task == "backbone":
        return Adapter(model.backbone, _pyramid)
    return Adapter(model, _detections if task == Task.DETECTION.model else _logits)


@torch.no_grad()
def enliven(model: nn.Module) -> nn.Module:
    """Give batch norms and layer scales values as after training, in place.

    Layer scales of 1e-6 lead to denormal numbers a few layers later, which are slow on some CPUs.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("gamma", "layer_scale", ".ls.gamma")) and parameter.ndim == 1:
            parameter.uniform_(0.1, 0.3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@functools.cache
def macs(name: str, task: str, shape: tuple[int, int]) -> int | None:
    """Count the multiply-adds of convolutions, linear layers and attention for one image.

    Returns:
        The number, or ``None`` for detectors, whose work depends on the image.
    """
    if task == Task.DETECTION.model:
        return None
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        build(name, task, shape)(torch.zeros(1, 3, *shape))
    return counter.get_total_flops() // 2
