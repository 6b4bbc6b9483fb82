"""Check losses and gradients before every optimizer step, so that no NaN reaches the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from care_mm.checkpoint.writing import write_torch
from care_mm.engine.hooks.causes import find_cause
from care_mm.errors import InputError

UNCHANGED = "nothing was updated"
# The advice if batch and weights are sound.
ADVICE = (
    "batch and weights are sound, so lower the learning rate or clip gradients "
    "(optim_wrapper.clip_grad)"
)
# Kinds of values that are not finite in a process. The lowest kind of all processes is reported: a
# bad loss in one process spoils the gradients of all, but only that process has the images.
LOSS, GRADIENT, NOTHING = range(3)


@HOOKS.register_module()
class FiniteGuardHook(Hook):
    """End the run before an optimizer step with a loss or gradient that is NaN or infinite.

    The error names the loss term, the iteration, the likely cause and the images. The batch is
    saved in the work dir. With loss scaling, a step that overflowed is skipped as usual, up to a
    limit.

    Args:
        max_skipped: Number of consecutive steps that loss scaling may skip.
    """

    priority = "VERY_HIGH"

    def __init__(self, max_skipped: int = 20) -> None:
        self.max_skipped = max_skipped
        self.skipped = 0
        self.stepped = False
        self.losses: dict[str, Tensor] = {}
        self.batch: Any = None

    def before_train(self, runner: Runner) -> None:
        """Register hooks on the model, for its losses, and on the optimizers."""
        self.model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.model.register_forward_hook(self._remember_losses)
        self.wrappers = _wrappers(runner.optim_wrapper)
        for wrapper in self.wrappers:
            check = partial(self._check, runner, wrapper)
            wrapper.optimizer.register_step_pre_hook(check)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the batch for the error."""
        self.batch = data_batch
        self.losses = {}

    def _remember_losses(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        # Values stay on the device: reading them here would wait for the GPU.
        if module.training and isinstance(output, Mapping):
            for name, value in output.items():
                if "loss" in name:
                    parts = value if isinstance(value, list | tuple) else [value]
                    self.losses[name] = sum(part.detach().mean() for part in parts)

    def _check(
        self, runner: Runner, wrapper: OptimWrapper, optimizer: torch.optim.Optimizer, *_: Any
    ) -> None:
        """Check losses and gradients before a step; a gradient scaler that skips it does not call.

        Raises:
            InputError: A loss or gradient is not finite, in this or another process.
        """
        self.stepped = True
        total = gradient_size(optimizer, wrapper)
        for value in self.losses.values():
            total = total + value.to(total.device, torch.float32)
        finite = torch.isfinite(total)
        if get_world_size() > 1:  # a process that went on alone would wait for the others forever
            flag = finite.to(torch.int32)
            all_reduce(flag, "min")
            finite = flag
        if not bool(finite):
            self._stop(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count the steps that a gradient scaler skipped, and check iterations without a step.

        Raises:
            InputError: Too many steps were skipped, or a loss is not finite.
        """
        expected = any(wrapper.should_update() for wrapper in self.wrappers)
        if expected:
            scaled = any(hasattr(wrapper, "loss_scaler") for wrapper in self.wrappers)
            self.skipped = 0 if self.stepped or not scaled else self.skipped + 1
            if self.skipped > self.max_skipped:
                raise InputError(
                    f"iteration {runner.iter + 1}: loss scaling skipped {self.skipped} steps in a "
                    f"row ({self._bad_losses() or 'only gradients are not finite'}); "
                    f"images: {self._images()}; lower the learning rate, or train without --amp"
                )
        elif self._bad_losses():
            self._stop(runner, together=False)  # gradients are being accumulated
        self.stepped = False
        self.batch = None

    def _bad_losses(self) -> str:
        return ", ".join(
            f"{name} is {float(value)}"
            for name, value in self.losses.items()
            if not math.isfinite(float(value))
        )

    def _images(self) -> str:
        return ", ".join(image_paths(self.batch)) or "unknown"

    def _diagnose(self) -> tuple[int, str]:
        """Return what is not finite in this process, and a sentence that names it."""
        if losses := self._bad_losses():
            return LOSS, losses
        bad = [
            name
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
        ]
        if not bad:
            return NOTHING, ""
        others = f" and {len(bad) - 1} others" if len(bad) > 1 else ""  # clipping spreads it
        return GRADIENT, f"the gradient of {bad[0]}{others} is not finite, the losses are"

    def _stop(self, runner: Runner, together: bool = True) -> None:
        """End the run, unless only a sum of finite numbers overflowed.

        Args:
            runner: The runner.
            together: Whether all processes call this method.

        Raises:
            InputError: A loss or gradient is not finite.
        """
        fault, text = self._diagnose()
        number = runner.iter + 1
        if fault != NOTHING:
            batch = self._save_batch(Path(runner.work_dir), number)
            text = f"{text}; {self._cause(runner)}; images: {self._images()}; {batch}"
        if together and get_world_size() > 1:
            fault, text = min(all_gather_object((fault, text)), key=lambda item: item[0])
        if fault != NOTHING:
            raise InputError(f"iteration {number}: {text}; {UNCHANGED}")

    def _cause(self, runner: Runner) -> str:
        """Return the likely cause, or advice if neither the batch nor the weights have one."""
        dataset = getattr(runner.train_dataloader, "dataset", None)
        cause = find_cause(self.batch, self.model, dataset, runner._load_from)
        return f"likely cause: {cause}" if cause else ADVICE

    def _save_batch(self, folder: Path, number: int) -> str:
        """Save the batch and the losses, and return where they are."""
        rank = f"_rank{get_rank()}" if get_world_size() > 1 else ""
        path = folder / f"nonfinite_iter_{number}{rank}.pth"
        losses = {name: float(value) for name, value in self.losses.items()}
        try:
            write_torch({"iteration": number, "losses": losses, "batch": plain(self.batch)}, path)
        except InputError as error:  # the disk is full, too
            return f"the batch could not be saved: {error}"
        return f"the batch is in {path}"


def _wrappers(optim_wrapper: Any) -> list[OptimWrapper]:
    """Return the wrappers of mmengine's kind; others (deepspeed) check gradients themselves."""
    wrappers = getattr(optim_wrapper, "optim_wrappers", {"": optim_wrapper}).values()
    return [wrapper for wrapper in wrappers if isinstance(wrapper, OptimWrapper)]


def gradient_size(optimizer: torch.optim.Optimizer, wrapper: OptimWrapper) -> Tensor:
    """Return a scalar that is not finite if a gradient is not; reuse the norm that clipping took.

    A sum of large finite gradients can overflow, too.
    """
    clip = wrapper.clip_grad_kwargs
    if clip and wrapper.clip_func is torch.nn.utils.clip_grad_norm_:
        norm = wrapper.message_hub.get_scalar(f"train/{wrapper.grad_name}").current()
        return torch.tensor(float(norm))
    grads = [
        parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    if not grads:
        return torch.zeros(())
    # A private function, tested on torch 2.1 to 2.15.
    return torch.stack([norm.float() for norm in torch._foreach_norm(grads)]).sum()


def image_paths(batch: Any) -> list[str]:
    """Return the image paths recorded in the data samples of a batch."""
    samples = batch.get("data_samples") if isinstance(batch, Mapping) else None
    samples = samples if isinstance(samples, Iterable) else []
    return [str(path) for sample in samples if (path := getattr(sample, "img_path", None))]


def plain(value: Any) -> Any:
    """Convert a batch to built-in types, arrays and tensors, for ``weights_only=True``."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, BaseDataElement):
        return {key: plain(item) for key, item in value.all_items()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value if value.dtype != object else str(value)
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(getattr(value, "tensor", None), Tensor):  # mmdet's boxes
        return plain(value.tensor)
    if hasattr(value, "to_ndarray"):  # mmdet's masks
        return plain(value.to_ndarray())
    return str(value)
