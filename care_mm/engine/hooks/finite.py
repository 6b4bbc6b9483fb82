"""Nothing that is not finite reaches the weights: looked at before every optimizer step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
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

from care_mm.errors import InputError

ADVICE = (
    "nothing was updated; look at the batch, lower the learning rate, or clip gradients "
    "(optim_wrapper.clip_grad)"
)


@HOOKS.register_module()
class FiniteGuardHook(Hook):
    """End the run before an optimizer step with a loss or gradient that is NaN or infinite.

    The error names the loss term, the iteration and the images; the batch is saved in the work dir.
    With loss scaling a step that overflowed is skipped as usual, up to a number of them in a row.

    Args:
        max_skipped: Steps in a row that loss scaling may skip.
    """

    priority = "VERY_HIGH"

    def __init__(self, max_skipped: int = 20) -> None:
        self.max_skipped = max_skipped
        self.skipped = 0
        self.stepped = False
        self.losses: dict[str, Tensor] = {}
        self.batch: Any = None

    def before_train(self, runner: Runner) -> None:
        """Listen to the model's losses and to the optimizers."""
        self.model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.model.register_forward_hook(self._remember)
        self.wrappers = _wrappers(runner.optim_wrapper)
        for wrapper in self.wrappers:
            check = partial(self._check, runner, wrapper)
            wrapper.optimizer.register_step_pre_hook(check)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.batch = data_batch
        self.losses = {}

    def _remember(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        """A forward hook: the losses, detached; nothing waits for the GPU here."""
        if module.training and isinstance(output, Mapping):
            for name, value in output.items():
                if "loss" in name:
                    parts = value if isinstance(value, list | tuple) else [value]
                    self.losses[name] = sum(part.detach().mean() for part in parts)

    def _check(
        self, runner: Runner, wrapper: OptimWrapper, optimizer: torch.optim.Optimizer, *_: Any
    ) -> None:
        """Before the step. Not called when a gradient scaler skips it."""
        self.stepped = True
        total = gradient_size(optimizer, wrapper)
        for value in self.losses.values():
            total = total + value.to(total.device, torch.float32)
        fine = torch.isfinite(total)
        if get_world_size() > 1:  # all or none: whoever went on would wait for the others for ever
            flag = fine.to(torch.int32)
            all_reduce(flag, "min")
            fine = flag
        if not bool(fine):
            self._stop(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count steps that a gradient scaler skipped, and look at iterations without a step."""
        expected = any(wrapper.should_update() for wrapper in self.wrappers)
        if expected:
            scaled = any(hasattr(wrapper, "loss_scaler") for wrapper in self.wrappers)
            self.skipped = 0 if self.stepped or not scaled else self.skipped + 1
            if self.skipped > self.max_skipped:
                raise InputError(
                    f"iteration {runner.iter + 1}: loss scaling skipped {self.skipped} steps in a "
                    f"row ({self._terms() or 'the losses are finite, the gradients are not'}); "
                    f"images: {self._images()}; lower the learning rate, or train without --amp"
                )
        elif not all(math.isfinite(float(value)) for value in self.losses.values()):
            self._stop(runner, together=False)  # gradients are being accumulated
        self.stepped = False
        self.batch = None

    def _terms(self) -> str:
        return ", ".join(
            f"{name} is {float(value)}"
            for name, value in self.losses.items()
            if not math.isfinite(float(value))
        )

    def _images(self) -> str:
        return ", ".join(image_paths(self.batch)) or "unknown"

    def _stop(self, runner: Runner, together: bool = True) -> None:
        what = self._terms()
        if not what:
            bad = [
                name
                for name, parameter in self.model.named_parameters()
                if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
            ]
            if not bad and get_world_size() == 1:
                return  # a sum that overflowed, of finite parts
            others = f" and {len(bad) - 1} others" if len(bad) > 1 else ""  # clipping spreads it
            what = f"the gradient of {bad[0]}{others} is not finite, the losses are" if bad else ""
        number = runner.iter + 1
        rank = f"_rank{get_rank()}" if get_world_size() > 1 else ""
        path = Path(runner.work_dir) / f"nonfinite_iter_{number}{rank}.pth"
        where = f"the batch is in {path}"
        try:
            torch.save(self._dump(number), path)
        except OSError as error:  # the disk is full, too
            where = f"the batch could not be saved ({error.strerror})"
        line = f"{what}; images: {self._images()}; {where}" if what else ""
        if get_world_size() > 1 and together:
            lines = all_gather_object(line)
            # A bad loss spreads to all ranks as a bad gradient: who has the loss knows the images.
            named = [
                text for text in lines if " is " in text.split(";")[0] and "gradient" not in text
            ]
            line = (named or [text for text in lines if text] or [line])[0]
        raise InputError(f"iteration {number}: {line}; {ADVICE}")

    def _dump(self, number: int) -> dict[str, Any]:
        losses = {name: float(value) for name, value in self.losses.items()}
        return {"iteration": number, "losses": losses, "batch": plain(self.batch)}


def _wrappers(optim_wrapper: Any) -> list[OptimWrapper]:
    """Those of mmengine's own kind; others (deepspeed) look after their gradients themselves."""
    wrappers = getattr(optim_wrapper, "optim_wrappers", {"": optim_wrapper}).values()
    return [wrapper for wrapper in wrappers if isinstance(wrapper, OptimWrapper)]


def gradient_size(optimizer: torch.optim.Optimizer, wrapper: OptimWrapper) -> Tensor:
    """A scalar that is finite if all gradients are; the norm that clipping took, where it did."""
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
    return torch.stack([norm.float() for norm in torch._foreach_norm(grads)]).sum()


def image_paths(batch: Any) -> list[str]:
    """The files that a batch was made of, as far as its data samples say."""
    samples = batch.get("data_samples") if isinstance(batch, Mapping) else None
    samples = samples if isinstance(samples, Iterable) else []
    return [str(path) for sample in samples if (path := getattr(sample, "img_path", None))]


def plain(value: Any) -> Any:
    """A batch without classes of any package, so that it can be read with ``weights_only=True``."""
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
    for part in _parts(value):
        return plain(part)
    return str(value)


def _parts(value: Any) -> Iterator[Any]:
    """What mmdet's boxes and masks hold."""
    if torch.is_tensor(getattr(value, "tensor", None)):
        yield value.tensor
    if hasattr(value, "to_ndarray"):
        yield value.to_ndarray()
