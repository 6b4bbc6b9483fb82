"""One recipe for training different backbones in one model, from random weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from mmengine.config import Config

from care_mm.config import find, without_pretrained
from care_mm.swap.adapt import add_import
from care_mm.swap.backbone import swap_backbone
from care_mm.swap.choices import TIMM, Choice, choose

# Random weights train in few steps with an initialisation that keeps the variance, and a large
# layer scale. Every backbone gets both.
INIT = [
    dict(type="Kaiming", layer="Conv2d", mode="fan_in", nonlinearity="linear"),
    dict(type="LayerScale", value=0.5),
]
WARM_UP = 40  # steps
LAST_RATE = 0.01  # of the learning rate, at the end


@dataclass(frozen=True)
class Contestant:
    """A backbone by its name and size.

    Attributes:
        backbone: As for :func:`care_mm.swap.choices.choose`.
        arch: The size; ``None`` for the default or for a model of timm.
    """

    backbone: str
    arch: str | None = None

    @classmethod
    def parse(cls, text: str) -> Contestant:
        """Read ``NAME``, ``NAME:SIZE`` or ``timm:NAME``."""
        if text.startswith(TIMM):
            return cls(text)
        name, _, size = text.partition(":")
        return cls(name, size or None)

    def choose(self) -> Choice:
        """Return the backbone.

        Raises:
            InputError: The name or the size is unknown.
        """
        return choose(self.backbone, self.arch)


def comparable(config: Config, contestant: Contestant, steps: int, seed: int) -> Config:
    """Return a config that trains a backbone under the recipe of the comparison.

    The model, the data, the optimizer and its learning rate are those of ``config``. The recipe
    replaces the rest, for each backbone alike: the backbone starts from random weights, has no drop
    path and no norms on its outputs, and batch norms learn their statistics. The learning rate
    rises for 40 steps and then falls linearly to 1%. The model is validated after the last step.

    Args:
        config: A config of mmdet or mmseg with any backbone.
        contestant: The backbone.
        steps: Training steps.
        seed: Seed of the weights and of the data's order.

    Raises:
        InputError: As :func:`care_mm.swap.backbone.swap_backbone`.
    """
    choice = contestant.choose()
    swap = swap_backbone(config, contestant.arch, None, contestant.backbone, again=True)
    new = swap.config
    new.model = without_pretrained(new.model)
    (backbone,) = find(new.model, lambda node: node.get("type") == choice.config["type"])
    backbone.clear()
    backbone.update(choice.config, out_indices=swap.out_indices, init_cfg=copy.deepcopy(INIT))
    for module in ("care_mm", "care_mm.peers"):  # the second one has the initialisation
        add_import(new, module)
    warm_up = min(WARM_UP, steps // 2)
    falling = dict(type="LinearLR", start_factor=1.0, end_factor=LAST_RATE)
    new.param_scheduler = [
        dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=warm_up),
        dict(falling, by_epoch=False, begin=warm_up, end=steps),
    ]
    new.train_cfg = dict(type="IterBasedTrainLoop", max_iters=steps, val_interval=steps)
    new.log_processor = dict(type="LogProcessor", window_size=50, by_epoch=False)
    new.default_hooks.logger = dict(
        type="LoggerHook", interval=min(10, steps), log_metric_by_epoch=False
    )
    new.default_hooks.checkpoint = dict(
        type="AtomicCheckpointHook", by_epoch=False, interval=steps, save_optimizer=False
    )
    new.custom_hooks = [dict(type="StepTimeHook")]
    new.randomness = dict(seed=seed)
    return new
