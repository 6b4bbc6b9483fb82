"""Decide the settings of a config from the data and the machine, and say why."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from care_mm.new_config.survey import Objects, Sizes

# Objects of fewer pixels are hard to see at stride 4; a quarter of them may be smaller.
_SMALLEST = 11
# The least and the largest long side of detectors, and the largest of segmentors, whose cost in
# training is that of the crop.
_SIDES = {"cpu": (256, 384, 512), "cuda": (512, 1333, 2048)}
_CROP = 224  # pixels; the least side of crops of images with small objects
_SEGMENTOR_CROP = {"cpu": 256, "cuda": 512}
# Optimizer steps that a model needs, from random and from ImageNet weights.
_STEPS = {False: 20_000, True: 8_000}
# Megapixels that a CPU of two cores trains on in about an hour, and the steps within them.
_CPU_BUDGET = 400
_CPU_STEPS = (500, 2_000)


@dataclass(frozen=True)
class Machine:
    """The hardware that the config is for.

    Attributes:
        device: ``cpu`` or ``cuda``.
        memory: GB of the GPU; 0 without one.
        workers: Processes that load data.
    """

    device: str
    memory: float
    workers: int

    @classmethod
    def here(cls) -> Machine:
        """Return this machine."""
        has_gpu = torch.cuda.is_available()
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if has_gpu else 0.0
        cores = os.cpu_count() or 1
        return cls(
            "cuda" if has_gpu else "cpu", memory, max(1, min(8 if has_gpu else 2, cores - 1))
        )

    def __str__(self) -> str:
        return f"a GPU with {self.memory:.0f} GB" if self.memory else "a CPU"


@dataclass(frozen=True)
class Weights:
    """The weights that training starts from.

    Attributes:
        path: The file of ImageNet weights.
        exist: Whether it is there; otherwise training starts from random weights.
    """

    path: str
    exist: bool

    @classmethod
    def of(cls, arch: str) -> Weights:
        """Look for the ImageNet weights of a size at the usual place."""
        path = f"checkpoints/care_{arch}_in1k.pth"
        return cls(path, Path(path).is_file())


@dataclass(frozen=True)
class Scale:
    """Image sizes in training and testing.

    Attributes:
        train: (width, height) that images are resized to, before the random factor.
        ratios: The least and the largest random factor.
        crop: (height, width) of random crops.
        test: (width, height).
    """

    train: tuple[int, int]
    ratios: tuple[float, float]
    crop: tuple[int, int]
    test: tuple[int, int]


@dataclass(frozen=True)
class Schedule:
    """Batch, length and rate of training.

    Attributes:
        batch: Images of a step.
        times: How often an epoch repeats the images.
        epochs: Number of epochs.
        warmup: Steps of warm-up.
        lr: Learning rate of AdamW.
    """

    batch: int
    times: int
    epochs: int
    warmup: int
    lr: float

    def steps(self, images: int) -> int:
        """Return the number of optimizer steps for a number of images, each counted once."""
        return -(-self.times * images // self.batch) * self.epochs


def choose_scale(sizes: Sizes, machine: Machine, objects: Objects | None = None) -> Scale:
    """Choose image sizes: as large as small objects need and the machine affords.

    Args:
        sizes: Sizes of the images.
        machine: The machine.
        objects: The objects of a detection data set.
    """
    least, largest, largest_segmentor = _SIDES[machine.device]
    side = max(sizes.width, sizes.height)
    if objects:
        side = max(side, _SMALLEST / objects.sides[1])
    side = _multiple(min(max(side, least), largest if objects else largest_segmentor))
    factor = side / max(sizes.width, sizes.height)
    size = (_multiple(sizes.width * factor), _multiple(sizes.height * factor))
    if not objects and least <= max(sizes.width, sizes.height) <= largest_segmentor:
        size = (sizes.width, sizes.height)  # thin objects suffer from any resizing
    ratios = (0.65, 1.35) if sizes.spread > 1.5 else (0.8, 1.25)
    crop = min(size)
    if not objects:
        crop = min(_multiple(crop), _SEGMENTOR_CROP[machine.device])
    else:  # a part of the image shows objects as well, if they are small
        crop = min(crop, max(_CROP, _multiple(4 * objects.sides[3] * side)))
    return Scale(size, ratios, (crop, crop), size)


def choose_schedule(
    images: int,
    scale: Scale,
    weights: Weights,
    machine: Machine,
    rates: tuple[float, float],
    batch: int = 4,
) -> Schedule:
    """Choose batch, length and rate.

    Args:
        images: Number of training images.
        scale: Image sizes.
        weights: The weights to start from.
        machine: The machine.
        rates: Rate for a batch of 4 from random weights, and for one of 16 from ImageNet weights.
        batch: Images of a step on a CPU.
    """
    megapixels = scale.crop[0] * scale.crop[1] / 1e6
    if machine.memory:  # an image of a megapixel needs about 3 GB; half of the memory stays free
        fits = int(machine.memory / (6 * megapixels))
        batch = 1 << (max(1, min(fits, 128)).bit_length() - 1)
    batch = max(1, min(batch, images))
    steps = _STEPS[weights.exist]
    if machine.device == "cpu":
        steps = min(max(_CPU_BUDGET / (batch * megapixels), _CPU_STEPS[0]), _CPU_STEPS[1])
    times = max(1, round(100 * batch / images))  # epochs of 100 steps or more
    epochs = round(steps * batch / (images * times))
    epochs = max(6, min(epochs, 300))
    lr = rates[1] * batch / 16 if weights.exist else rates[0] * (batch / 4) ** 0.5
    return Schedule(batch, times, epochs, min(500, max(40, int(steps) // 20)), float(f"{lr:.2g}"))


def choose_anchor(objects: Objects, scale: Scale) -> int:
    """Return the side of anchors over the stride, 2 to 8, so that stride 4 fits small objects."""
    small = objects.sides[1] * max(scale.train)
    return int(min(max(round(small / 4), 2), 8))


def choose_count(densest: int) -> int:
    """Return the number of detections in an image, with room over the densest image."""
    return next((n for n in (100, 200, 300, 500, 1000) if n >= 1.2 * densest), 2000)


def choose_proposals(densest: int, least: int) -> int:
    """Return the number of proposals in an image: more than its objects, since some miss."""
    return max(least, -(-3 * densest // 200) * 100)


def choose_flip(classes: Sequence[str]) -> tuple[str | None, str]:
    """Return the direction of random flips, ``None`` for no flips, and the reason."""
    words = {w for name in classes for w in (*name.lower().replace("-", " ").split(), name)}
    sides = {w for w in words if w in ("left", "right") or w.endswith(("_left", "_right"))}
    if sides:
        return None, f"No flip, because it would turn {min(sides)!r} into its opposite."
    if len(classes) > 1 and all(len(name) == 1 for name in classes):
        return None, "No flip, because mirrored letters and digits are others."
    return (
        "horizontal",
        "Images without an up, such as those from above, can be flipped vertically, too: "
        "direction=['horizontal', 'vertical'].",
    )


def _multiple(side: float) -> int:
    """Round to a multiple of 32, the stride of the last stage; at least 64."""
    return max(64, round(side / 32) * 32)
