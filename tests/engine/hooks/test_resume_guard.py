"""Resuming with a config that the checkpoint contradicts is refused or warned of, with the key."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import CosineAnnealingLR, LinearLR, MultiStepLR, OptimWrapper

from care_mm.engine.hooks.resume import ResumeGuardHook
from care_mm.errors import InputError

CLASSES = ("ball", "cube", "star")


def run_of(lr=0.1, end=8, decay=0.0, classes=CLASSES, milestones=(4, 6)) -> SimpleNamespace:
    """Build the parts of a resuming runner that the hook reads."""
    warnings: list[str] = []
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=lr, weight_decay=decay)
    schedulers = [
        LinearLR(optimizer, start_factor=0.1, end=2, by_epoch=False),
        CosineAnnealingLR(optimizer, begin=2, end=end, by_epoch=False),
        MultiStepLR(optimizer, milestones=list(milestones), by_epoch=False),
    ]
    dataset = SimpleNamespace(metainfo={"classes": classes})
    return SimpleNamespace(
        _resume=True,
        _load_from="epoch_1.pth",
        optim_wrapper=OptimWrapper(optimizer),
        param_schedulers=schedulers,
        train_dataloader=SimpleNamespace(dataset=dataset),
        warnings=warnings,
        logger=SimpleNamespace(warning=warnings.append),
    )


def checkpoint_of(run: SimpleNamespace, steps: int = 3) -> dict:
    for _ in range(steps):
        run.optim_wrapper.optimizer.step()
        for scheduler in run.param_schedulers:
            scheduler.step()
    content = {
        "meta": {"dataset_meta": {"classes": CLASSES}},
        "optimizer": run.optim_wrapper.state_dict(),
        "param_schedulers": [scheduler.state_dict() for scheduler in run.param_schedulers],
    }
    return copy.deepcopy(content)


def test_an_unchanged_run_resumes() -> None:
    run = run_of()
    ResumeGuardHook().after_load_checkpoint(run, checkpoint_of(run_of()))
    assert not run.warnings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.01}, "lr of optim_wrapper is 0.1 in the checkpoint and 0.01 in the config"),
        ({"decay": 0.5}, "weight_decay of optim_wrapper is 0.0 in the checkpoint and 0.5"),
        ({"end": 20}, "param_scheduler.1.end is 8 in the checkpoint and 20"),
        ({"milestones": (4,)}, "param_scheduler.2.milestones"),
    ],
)
def test_a_change_without_an_effect_is_warned_of(changes: dict, message: str) -> None:
    run = run_of(**changes)
    ResumeGuardHook().after_load_checkpoint(run, checkpoint_of(run_of()))
    (line,) = run.warnings
    assert line.startswith(f"--resume: {message}") and "keeps the checkpoint's value" in line


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (CLASSES[::-1], "class 0 is 'ball' in the checkpoint and 'star' in the training data"),
        (CLASSES[:2], "it has 3 classes and the training data 2"),
    ],
)
def test_other_classes_are_refused(classes: tuple, message: str) -> None:
    with pytest.raises(InputError, match=f"--resume: epoch_1.pth: {message}"):
        ResumeGuardHook().after_load_checkpoint(run_of(classes=classes), checkpoint_of(run_of()))


def test_starting_from_weights_compares_nothing() -> None:
    run = run_of(lr=0.01, classes=("other",))
    run._resume = False
    ResumeGuardHook().after_load_checkpoint(run, checkpoint_of(run_of()))
    assert not run.warnings
