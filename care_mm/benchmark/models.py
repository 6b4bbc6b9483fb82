"""What is measured: our sizes by name, peers from timm by name, and the model of any config."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from care_mm.errors import InputError
from care_mm.models.arch import ARCHS

TASKS = ("backbone", "classifier", "segmentor", "detector")
# ImageNet-1K top-1 in percent, as published: ours by the authors' release page, the others by
# their papers (distilled, 224 pixels, where there is a choice).
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


class _Tensors(nn.Module):
    """A model whose forward takes an image batch and returns tensors, whatever it is called by."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, x: Tensor) -> object:
        return self.call(self.model, x)


def _plain(model: nn.Module, x: Tensor) -> object:
    return model(x)


def _pyramid(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    return tuple(model(x))


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    return model(x, mode="tensor")


def _detections(model: nn.Module, x: Tensor) -> object:
    from mmdet.structures import DetDataSample

    height, width = x.shape[-2:]
    meta = dict(
        img_shape=(height, width),
        ori_shape=(height, width),
        pad_shape=(height, width),
        batch_input_shape=(height, width),
        scale_factor=(1.0, 1.0),
    )
    samples = [DetDataSample(metainfo=meta) for _ in range(len(x))]
    return model(x, samples, mode="predict")


def build(name: str, task: str, shape: tuple[int, int] = (224, 224)) -> nn.Module:
    """A model in evaluation mode, (B, 3, H, W) -> tensors, with random but lively weights.

    Args:
        name: ``care_s0``, ``care_s1``, ``care_s2``, a name that timm knows, or a config (a file,
            or ``mmdet::...``), of which ``'backbone'`` takes the backbone alone.
        task: One of :data:`TASKS`. Segmentors and detectors are configs.
        shape: Height and width of the input, for models that are made for one size.

    Raises:
        InputError: A name that nobody knows, or one that does not fit the task.
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
        raise InputError(f"{name}: neither one of {ours}, nor a model of timm's, nor a config")
    # Swin's windows and others' positions are laid out for one size.
    fixed = getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
    size = {"img_size": shape} if fixed else {}
    if task == "classifier":
        return timm.create_model(name, **size)
    model = timm.create_model(name, features_only=True, **size)
    levels = [i for i, stride in enumerate(model.feature_info.reduction()) if 4 <= stride <= 32]
    if len(levels) < len(model.feature_info):
        model = timm.create_model(name, features_only=True, out_indices=levels, **size)
    return _Tensors(model, _pyramid)


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
    return _Tensors(MODELS.build(classifier), _logits)


def _build_config(name: str, task: str) -> nn.Module:
    from care_mm import complexity
    from care_mm.config import load_config

    model = complexity.build(load_config(name))
    if task == "backbone":
        return _Tensors(model.backbone, _pyramid)
    calls = {"classifier": _logits, "segmentor": _logits, "detector": _detections}
    return _Tensors(model, calls[task])


@torch.no_grad()
def enliven(model: nn.Module) -> nn.Module:
    """Give norms statistics and layer scales sizes as training does, so that nothing is zero.

    Batch norms that start as the identity and layer scales of 1e-6 are denormal numbers a few
    layers on, which some processors are slow at.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("gamma", "layer_scale", ".ls.gamma")) and parameter.ndim == 1:
            parameter.uniform_(0.1, 0.3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def deploy(model: nn.Module) -> nn.Module:
    """Fold ``model`` by its own method: ``switch_to_deploy``, ``fuse`` or ``reparameterize``."""
    from care_mm.models.fold import switch_to_deploy

    switch_to_deploy(model)
    try:
        from timm.utils.model import reparameterize_model
    except ImportError:
        return model
    return reparameterize_model(model, inplace=True).eval()


@functools.cache
def macs(name: str, task: str, shape: tuple[int, int]) -> int | None:
    """Multiply-adds of convolutions, linear layers and attention products for one image.

    ``None`` where the work depends on the picture (detectors).
    """
    if task == "detector":
        return None
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        build(name, task, shape)(torch.zeros(1, 3, *shape))
    return counter.get_total_flops() // 2
