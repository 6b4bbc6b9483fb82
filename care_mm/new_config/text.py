"""The text of a config: templates for each task, with the reasons as comments."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

from yapf.yapflib.yapf_api import FormatCode

from care_mm.models.backbone import CARETransformer
from care_mm.new_config.decisions import Schedule, Weights
from care_mm.new_config.draft import Request
from care_mm.shipped import PREFIX, shipped_config

WIDTH = 100
# The style of MM's own configs.
STYLE = dict(
    based_on_style="pep8", column_limit=WIDTH, split_before_expression_after_opening_paren=True
)


def comment(text: str) -> str:
    """Return a text as comment lines."""
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, WIDTH - 6))


def bases(names: Sequence[str], out: Path) -> str:
    """Return ``_base_`` for configs of ours, relative to ``out`` if both are below this folder."""
    cwd, folder = Path.cwd().resolve(), out.resolve().parent
    paths = []
    for name in names:
        path = shipped_config(PREFIX + name).resolve()
        near = path.is_relative_to(cwd) and folder.is_relative_to(cwd)
        paths.append(Path(os.path.relpath(path, folder)).as_posix() if near else path.as_posix())
    return f"_base_ = {paths!r}\n"


def backbone(arch: str, weights: Weights) -> str:
    """Return what the backbone has other than its base, as Python."""
    init = f", init_cfg=dict(checkpoint={weights.path!r})" if weights.exist else ""
    return f"dict(arch={arch!r}{init})"


def channels(arch: str) -> list[int]:
    """Return the channels of the four maps of a size of CARE."""
    return list(CARETransformer(arch).out_channels)


def weights_note(weights: Weights) -> str:
    """Return a comment about the weights that training starts from."""
    if weights.exist:
        return comment(f"Training starts from the ImageNet weights in {weights.path}.")
    return comment(
        f"There are no ImageNet weights at {weights.path}, so training starts from random weights, "
        "which needs more steps and gives less. docs/checkpoints.md tells where to get them; then "
        "write this config again."
    )


def loader(name: str, dataset: str, batch: int, workers: int, extra: str = "") -> str:
    """Return a dataloader as Python."""
    shuffled = name == "train"
    return f"""{name}_dataloader = dict(
    batch_size={batch}, num_workers={workers}, persistent_workers=True, {extra}
    sampler=dict(type='DefaultSampler', shuffle={shuffled}), dataset={dataset})
"""


def schedule(plan: Schedule, images: int, request: Request, rates: str = "") -> str:
    """Return optimizer, schedule and loops as Python.

    Args:
        plan: Batch, length and rate of training.
        images: Number of training images, each counted once.
        request: The arguments of the command.
        rates: More settings of the optimizer, as Python.
    """
    on_cpu = request.machine.device == "cpu"
    what = "ImageNet weights" if request.weights.exist else "random weights"
    why = (
        "about what a CPU trains in an hour. More epochs give more"
        if on_cpu
        else f"about what a model from {what} needs"
    )
    repeats = f", each {plan.times} times," if plan.times > 1 else ""
    note = comment(
        f"{plan.epochs} epochs of {images:,} images{repeats} are {plan.steps(images):,} steps: "
        f"{why}. The learning rate is for batches of {plan.batch}; scale it with the batch."
    )
    interval = max(1, round(plan.epochs / 6))  # a validation takes as long as many steps
    extra = f",\n{rates}" if rates else ""
    optimizer = "FusedAdamW" if on_cpu else "AdamW"
    return f"""
{note}train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs={plan.epochs}, val_interval={interval})
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type={optimizer!r}, lr={plan.lr}, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0){extra})
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end={plan.warmup}),
    dict(type='CosineAnnealingLR', eta_min={plan.lr / 100:.2g}, by_epoch=True, begin=0,
         end={plan.epochs}, convert_to_iter_based=True)]
auto_scale_lr = dict(enable=False, base_batch_size={plan.batch})
"""


def repeated(dataset: str, times: int) -> str:
    """Return a data set that an epoch repeats."""
    if times == 1:
        return dataset
    return f"dict(type='RepeatDataset', times={times}, dataset={dataset})"


def formatted(text: str) -> str:
    """Return Python in the style of configs."""
    return FormatCode(text, style_config=STYLE)[0]


def indented(lines: str) -> str:
    """Return comment lines at the depth of an item of a list."""
    return textwrap.indent(lines, "    ")
