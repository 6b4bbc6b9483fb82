"""Train the same numbers faster, with another memory layout of the backbone or compiled."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from care_mm.errors import InputError


def _to_channels_last(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(
        arg.contiguous(memory_format=torch.channels_last)
        if isinstance(arg, Tensor) and arg.ndim == 4
        else arg
        for arg in args
    )


def _to_contiguous(
    module: nn.Module, args: object, maps: Tensor | tuple[Tensor, ...]
) -> Tensor | tuple[Tensor, ...]:
    if isinstance(maps, Tensor):  # some backbones return a single map
        return maps.contiguous()
    return tuple(x.contiguous() for x in maps)


@HOOKS.register_module()
class FastBackboneHook(Hook):
    """Run the model's backbone in channels_last layout, or compiled, or both.

    Neck and heads are unchanged and receive contiguous NCHW maps, because mmcv's operators, such as
    RoIAlign, read any map as NCHW, and the box and mask code of heads does not compile. Checkpoints
    are the same with and without the hook.

    Args:
        channels_last: Use NHWC memory for the backbone's weights and input. It is faster on GPUs
            with AMP; ``tools/benchmark.py --train`` measures it. On a CPU our backbones compute in
            this layout without the hook, see :mod:`care_mm.models.layout`.
        compile: Apply ``torch.compile`` to the backbone. Each new input size compiles again until
            torch makes it dynamic, so training at many sizes starts slowly.
    """

    priority = "VERY_HIGH"

    def __init__(self, channels_last: bool = False, compile: bool = False) -> None:
        self.channels_last = channels_last
        self.compile = compile
        self._done = False

    def before_run(self, runner: Runner) -> None:
        """Prepare the backbone, once.

        Raises:
            InputError: The model has no backbone.
        """
        if self._done:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        backbone = getattr(model, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise InputError(
                f"FastBackboneHook: {type(model).__name__} has no backbone: remove the hook from "
                "custom_hooks"
            )
        if self.channels_last:
            backbone.to(memory_format=torch.channels_last)
            backbone.register_forward_pre_hook(_to_channels_last)
            backbone.register_forward_hook(_to_contiguous)
        if self.compile:
            backbone.compile()
        self._done = True
