"""NaN and infinity: the run ends before they reach the weights, and says where they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from tiny_job import finish, settings, told

from care_mm.checkpoint.reading import read_checkpoint
from care_mm.engine.hooks import ensure_guards
from care_mm.engine.hooks.finite import FiniteGuardHook, gradient_size, plain
from care_mm.errors import InputError


@pytest.mark.parametrize("at", [1, 6])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_run_ends_before_the_step(where: str, at: int, tmp_path: Path) -> None:
    work_dir = tmp_path / "run"
    assert finish(work_dir, nan_at=at, nan_in=where, rounds=2) == 2
    line = work_dir.with_suffix(".error").read_text()
    assert "\n" not in line and f"iteration {at}: " in line
    if where == "loss":
        assert "loss_extra is nan" in line and "loss_label" not in line
    else:
        assert "the gradient of head.bias is not finite" in line
    dump = torch.load(work_dir / f"nonfinite_iter_{at}.pth", weights_only=True)
    assert (len(dump["batch"]["inputs"]), dump["iteration"]) == (3, at)
    for sample in dump["batch"]["data_samples"]:
        assert sample["img_path"] in line
    assert len(told(work_dir)) == at - 1, "the step was made"
    for file in work_dir.glob("epoch_*.pth"):
        assert all(torch.isfinite(v).all() for v in read_checkpoint(file)["state_dict"].values())


def runner_of(tmp_path: Path, **changes: Any) -> Runner:
    config: Config = settings(tmp_path / "run", rounds=1)
    ensure_guards(config)
    config.merge_from_dict(changes)
    return Runner.from_cfg(config)


def test_weights_are_those_of_before(tmp_path: Path) -> None:
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


def test_accumulated_gradients_name_the_iteration_that_spoiled_them(tmp_path: Path) -> None:
    runner = runner_of(tmp_path, **{"model.nan_at": 1, "optim_wrapper.accumulative_counts": 2})
    with pytest.raises(InputError, match="iteration 1: loss_extra is nan"):
        runner.train()


def test_clipped_norm_is_used(tmp_path: Path) -> None:
    change = {"model.nan_at": 2, "model.nan_in": "gradient"}
    runner = runner_of(tmp_path, **change, **{"optim_wrapper.clip_grad": dict(max_norm=1.0)})
    with pytest.raises(InputError, match=r"iteration 2: the gradient of"):
        runner.train()


@OPTIM_WRAPPERS.register_module(force=True)
class ScaledOnCPU(OptimWrapper):
    """Loss scaling as AmpOptimWrapper's, which refuses the CPU; overflows at given steps."""

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
def test_overflow_of_scaled_losses_is_skipped_as_usual(tmp_path: Path) -> None:
    runner = scaled(tmp_path, [2, 3, 4, 6, 8, 10, 11])
    runner.train()
    assert runner.iter == 32


@needs_scaler
def test_overflow_without_end_ends_the_run(tmp_path: Path) -> None:
    runner = scaled(tmp_path, list(range(5, 100)))
    with pytest.raises(InputError, match=r"iteration 8: loss scaling skipped 4 steps in a row"):
        runner.train()


def test_finite_parts_whose_sum_overflows_go_on() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([1e30, 1e30, 0.0])
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    hook = FiniteGuardHook()
    hook.model, hook.losses = torch.nn.Linear(1, 1), {}
    assert not torch.isfinite(gradient_size(optimizer, OptimWrapper(optimizer)))

    class Fake:
        iter, work_dir = 0, "nowhere"

    hook._check(Fake(), OptimWrapper(optimizer), optimizer)


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


# Weights that do not cover the model


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("damage", ["missing", "left over", "shape", "nan"])
def test_partly_matching_weights(damage: str, allow: bool, tmp_path: Path) -> None:
    config = settings(tmp_path / "run", rounds=1)
    ensure_guards(config)
    runner = Runner.from_cfg(config)
    state = {key: value.clone() for key, value in runner.model.state_dict().items()}
    if damage == "missing":
        del state["head.weight"]
    elif damage == "left over":
        state["neck.weight"] = torch.zeros(1)
    elif damage == "shape":
        state["head.weight"] = torch.zeros(7, 3)
    else:
        state["head.weight"].fill_(float("nan"))
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    config.load_from = str(tmp_path / "weights.pth")
    config.experiment_name += "again"
    config.default_hooks.weights.allow_partial = allow
    runner = Runner.from_cfg(config)
    if allow and damage != "nan":
        runner.train()
        return
    with pytest.raises(InputError, match=r"weights.pth") as caught:
        runner.train()
    assert ("neck.weight" if damage == "left over" else "head.weight") in str(caught.value)
