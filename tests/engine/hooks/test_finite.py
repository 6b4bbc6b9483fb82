"""FiniteGuardHook ends a run before the step; see also tests/faults/test_not_finite.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from tiny_job import settings

from care_mm.engine.hooks import ensure_guards, finite
from care_mm.engine.hooks.finite import FiniteGuardHook, gradient_size, plain
from care_mm.errors import InputError


def runner_of(tmp_path: Path, **changes: Any) -> Runner:
    config: Config = settings(tmp_path / "run", rounds=1)
    ensure_guards(config)
    config.merge_from_dict(changes)
    return Runner.from_cfg(config)


def test_weights_are_unchanged(tmp_path: Path) -> None:
    runner = runner_of(tmp_path, **{"model.nan_at": 1})
    before = {}

    class Keep(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
            before.update({k: v.clone() for k, v in runner.model.named_parameters()})

    runner.register_hook(Keep())
    with pytest.raises(InputError, match="loss_extra is nan"):
        runner.train()
    for name, value in runner.model.named_parameters():
        assert torch.equal(value, before[name]), name


def test_accumulated_gradients_name_the_iteration_with_the_bad_loss(tmp_path: Path) -> None:
    runner = runner_of(tmp_path, **{"model.nan_at": 1, "optim_wrapper.accumulative_counts": 2})
    with pytest.raises(InputError, match="iteration 1: loss_extra is nan"):
        runner.train()


def test_norm_from_clipping_is_used(tmp_path: Path) -> None:
    change = {"model.nan_at": 2, "model.nan_in": "gradient"}
    runner = runner_of(tmp_path, **change, **{"optim_wrapper.clip_grad": dict(max_norm=1.0)})
    with pytest.raises(InputError, match=r"iteration 2: the gradient of"):
        runner.train()


@OPTIM_WRAPPERS.register_module(force=True)
class ScaledOnCPU(OptimWrapper):
    """Loss scaling as in AmpOptimWrapper, which refuses the CPU, with overflows at given steps."""

    def __init__(self, overflow: tuple[int, ...], **settings: Any) -> None:
        super().__init__(**settings)
        self.loss_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        self.overflow, self.count = overflow, 0

    def backward(self, loss: torch.Tensor, **settings: Any) -> None:
        self.loss_scaler.scale(loss).backward(**settings)
        self.count += 1
        if self.count in self.overflow:
            self.optimizer.param_groups[0]["params"][0].grad.fill_(float("inf"))
        self._inner_count += 1

    def step(self, **settings: Any) -> None:
        self.loss_scaler.step(self.optimizer, **settings)
        self.loss_scaler.update()


needs_scaler = pytest.mark.skipif(
    not hasattr(torch.amp, "GradScaler"), reason="torch 2.1 scales no losses on the CPU"
)


def scaled(tmp_path: Path, overflow: list[int]) -> Runner:
    wrapper = dict(type="ScaledOnCPU", overflow=overflow, optimizer=dict(type="SGD", lr=1e-3))
    config = settings(tmp_path / "run", rounds=8)
    ensure_guards(config)
    config.optim_wrapper = wrapper
    config.default_hooks.finite = dict(type="FiniteGuardHook", max_skipped=3)
    return Runner.from_cfg(config)


@needs_scaler
def test_step_with_an_overflow_is_skipped(tmp_path: Path) -> None:
    runner = scaled(tmp_path, [2, 3, 4, 6, 8, 10, 11])
    runner.train()
    assert runner.iter == 32


@needs_scaler
def test_endless_overflow_ends_the_run(tmp_path: Path) -> None:
    runner = scaled(tmp_path, list(range(5, 100)))
    with pytest.raises(InputError, match=r"iteration 8: loss scaling skipped 4 steps in a row"):
        runner.train()


def test_finite_gradients_whose_sum_overflows_are_accepted() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([1e30, 1e30, 0.0])
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    hook = FiniteGuardHook()
    hook.model, hook.losses = torch.nn.Linear(1, 1), {}
    assert not torch.isfinite(gradient_size(optimizer, OptimWrapper(optimizer)))

    class Fake:
        iter, work_dir = 0, "nowhere"

    hook._check(Fake(), OptimWrapper(optimizer), optimizer)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([(finite.LOSS, "loss_a is nan")], "iteration 5: loss_a is nan; nothing was updated"),
        ([(finite.GRADIENT, "of rank 1")], "iteration 5: the gradient of weight is not finite"),
        ([], "iteration 5: the gradient of weight is not finite"),
    ],
)
def test_process_with_the_bad_loss_gives_the_message(
    others: list, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss makes the gradients of all processes bad, but only it has the images."""
    hook = FiniteGuardHook()
    runner = SimpleNamespace(iter=4, work_dir=str(tmp_path), train_dataloader=None, _load_from=None)
    hook.model = torch.nn.Linear(1, 1)
    hook.model.weight.grad = torch.tensor([[float("nan")]])
    monkeypatch.setattr(finite, "get_world_size", lambda: 2)
    monkeypatch.setattr(finite, "all_gather_object", lambda fault: [fault, *others])
    with pytest.raises(InputError) as caught:
        hook._stop(runner)
    assert str(caught.value).startswith(message)
    # Sums of finite numbers overflowed in all processes.
    hook.model.weight.grad = None
    monkeypatch.setattr(finite, "all_gather_object", lambda fault: [fault, fault])
    hook._stop(runner)


def test_batch_of_any_kind_is_readable(tmp_path: Path) -> None:
    from mmengine.structures import BaseDataElement, InstanceData

    class Boxes:
        tensor = torch.ones(2, 4)

    instances = InstanceData(labels=torch.arange(2))
    sample = BaseDataElement(metainfo=dict(img_path="a.jpg", scale=(1.0, 2.0)), gt=instances)
    batch = dict(inputs=[torch.zeros(1)], data_samples=[sample], extra=[None, Boxes(), object])
    torch.save(plain(batch), tmp_path / "batch.pth")
    read = torch.load(tmp_path / "batch.pth", weights_only=True)
    assert read["data_samples"][0]["img_path"] == "a.jpg"
    assert read["data_samples"][0]["gt"]["labels"].tolist() == [0, 1]
    assert read["extra"][1].shape == (2, 4)
