"""Scenes: objects on a background, under a light, with exact masks.

This module writes no files. Its only source of randomness is the generator passed to
:func:`draw_scene`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from care_mm.datasets.shapes.backgrounds import MATERIALS, draw_background, noise, step
from care_mm.datasets.shapes.objects import OBJECTS, Sprite, draw_object

_MIN_VISIBLE = 0.5  # share of an object that must be visible for it to stay in its scene
_MIN_AREA = 20  # pixels of the visible mask


@dataclass(frozen=True)
class Instance:
    """An annotated object, or a pile of tiny objects of one kind (``crowd``)."""

    kind: int  # index into OBJECTS
    mask: np.ndarray  # (H, W) bool: the visible part
    visible: float  # visible share of the object, after overlaps and the image border
    crowd: bool = False

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The tight box around the mask: x, y, width, height in pixels."""
        xs, ys = np.flatnonzero(self.mask.any(0)), np.flatnonzero(self.mask.any(1))
        return int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)


@dataclass(frozen=True)
class Scene:
    """An image and its labels."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    materials: np.ndarray  # (H, W) uint8: index into MATERIALS of the background at each pixel
    instances: tuple[Instance, ...]  # masks are disjoint

    def semantic(self) -> np.ndarray:
        """Return (H, W) uint8 labels: 0 for unlabelled piles, OBJECTS from 1, then MATERIALS."""
        labels = self.materials + np.uint8(1 + len(OBJECTS))
        for instance in self.instances:
            labels[instance.mask] = 0 if instance.crowd else 1 + instance.kind
        return labels


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), max(sigma, 0.3))


def _shifted(image: np.ndarray, dx: float, dy: float) -> np.ndarray:
    move = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return cv2.warpAffine(image, move, image.shape[::-1])


def _background(
    rng: Generator, shape: tuple[int, int], unit: float, light: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a background (H, W, 3) of one or two materials, and its material map (H, W)."""
    names = rng.permutation(len(MATERIALS))[:2]
    lower = draw_background(rng, MATERIALS[names[0]], shape, unit, light)
    labels = np.full(shape, names[0], np.uint8)
    style = rng.random()
    if style < 0.4:
        return lower, labels
    h, w = shape
    y, x = np.mgrid[:h, :w].astype(np.float32)
    angle = rng.uniform(-np.pi, np.pi)
    x, y = x - w * rng.uniform(0.3, 0.7), y - h * rng.uniform(0.3, 0.7)
    a, b = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    if style < 0.75:  # the edge of a table or a lawn
        inside = a
    else:  # a mat
        corner = 8 * unit
        da = np.abs(a) - min(h, w) * rng.uniform(0.3, 0.5) + corner
        db = np.abs(b) - min(h, w) * rng.uniform(0.3, 0.5) + corner
        inside = corner - np.hypot(np.maximum(da, 0), np.maximum(db, 0))
    alpha = step(inside, -0.7, 0.7)
    rise = rng.uniform(1.5, 5) * unit
    shadow = _blur(_shifted(alpha, -rise * light[0], -rise * light[1]), 1.5 * unit)
    upper = draw_background(rng, MATERIALS[names[1]], shape, unit, light)
    lower = lower * (1 - 0.5 * shadow)[..., None]
    labels[alpha >= 0.5] = names[1]
    return lower + (upper - lower) * alpha[..., None], labels


def _clip(
    sprite: Sprite, shape: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the slices of the image that a sprite covers, and those of the covering part."""
    target, source = [], []
    for start, length, limit in zip(
        (sprite.top, sprite.left), sprite.alpha.shape, shape, strict=True
    ):
        low, high = max(start, 0), max(min(start + length, limit), max(start, 0))
        target.append(slice(low, high))
        source.append(slice(low - start, high - start))
    return tuple(target), tuple(source)


def _solid(sprite: Sprite, shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels (H, W) that a sprite covers at least by half."""
    mask = np.zeros(shape, bool)
    target, source = _clip(sprite, shape)
    mask[target] = sprite.alpha[source] >= 0.5
    return mask


def _lay(canvas: np.ndarray, sprite: Sprite, light: np.ndarray, unit: float) -> None:
    """Draw a sprite and its shadow into ``canvas`` (H, W, 3), in place."""
    reach = sprite.height / max(light[2], 0.3)
    pad = math.ceil(reach + 6 * unit) + 2
    cast = cv2.copyMakeBorder(sprite.alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    # Half the length: objects are highest in the middle, and the shadow starts there.
    soft = _blur(
        _shifted(cast, -0.5 * reach * light[0], -0.5 * reach * light[1]), 0.12 * reach + 0.8 * unit
    )
    touch = _blur(cast, 1.2 * unit)  # contact shadow
    shade = Sprite(
        0,
        sprite.rgb,
        1 - (1 - 0.5 * soft) * (1 - 0.3 * touch),
        sprite.top - pad,
        sprite.left - pad,
        0,
    )
    target, source = _clip(shade, canvas.shape[:2])
    canvas[target] *= 1 - shade.alpha[source][..., None]
    target, source = _clip(sprite, canvas.shape[:2])
    canvas[target] *= 1 - sprite.alpha[source][..., None]
    canvas[target] += sprite.rgb[source]


def _place(
    rng: Generator, shape: tuple[int, int], size: int, taken: list[tuple[float, float, float]]
) -> tuple[float, float, float] | None:
    """Return x, y and diameter in pixels for one more object; ``None`` if there is no room."""
    h, w = shape
    # Small to large, from 1/12 to 7/12 of the side; half of them are above a third.
    diameter = size / 12 * 7.0 ** rng.beta(3, 1.25)
    lean = bool(taken) and rng.random() < 0.2  # on or against another object; the others lie free
    for _ in range(12):
        margin = diameter * rng.uniform(0.3, 0.55)
        x, y = rng.uniform(margin, w - margin), rng.uniform(margin, h - margin)
        if lean:
            a, b, d = taken[rng.integers(len(taken))]
            angle, far = rng.uniform(-np.pi, np.pi), rng.uniform(0.55, 0.85) * (diameter + d) / 2
            x, y = a + far * math.cos(angle), b + far * math.sin(angle)
            if not (margin < x < w - margin and margin < y < h - margin):
                continue
        near = 0.5 if lean else 0.95
        if all(math.hypot(x - a, y - b) > near * (diameter + d) / 2 for a, b, d in taken):
            return x, y, diameter
    return None


def _pile(
    rng: Generator, canvas: np.ndarray, size: int, light: np.ndarray
) -> tuple[list[Sprite], tuple[float, float, float]]:
    """Draw dozens of tiny objects of one kind, and return them and their disc (x, y, diameter)."""
    (h, w), unit = canvas.shape[:2], size / 192
    kind, spread = int(rng.integers(len(OBJECTS))), size * rng.uniform(0.1, 0.15)
    x, y = rng.uniform(0.25, 0.75) * w, rng.uniform(0.25, 0.75) * h
    background, sprites = _mean_colour(canvas, x, y, spread), []
    for _ in range(rng.integers(35, 60)):
        dx, dy = np.clip(rng.normal(0, 0.6, 2), -1.3, 1.3) * spread
        diameter = size * rng.uniform(0.045, 0.065)
        sprites.append(draw_object(rng, kind, (x + dx, y + dy), diameter, light, background, unit))
    return sprites, (x, y, 2.6 * spread)


def _mean_colour(canvas: np.ndarray, x: float, y: float, reach: float) -> np.ndarray:
    """Return the mean colour (3,) of ``canvas`` (H, W, 3) around a point."""
    rows = slice(max(int(y - reach), 0), int(y + reach) + 1)
    columns = slice(max(int(x - reach), 0), int(x + reach) + 1)
    return np.array(cv2.mean(canvas[rows, columns])[:3], np.float32)


def _visible(sprites: list[Sprite], shape: tuple[int, int]) -> tuple[list[Sprite], list[Instance]]:
    """Return the sprites, lowest first, that are visible enough, and their instances."""
    kept, instances, covered = [], [], np.zeros(shape, bool)
    for sprite in reversed(sprites):
        solid = _solid(sprite, shape)
        seen = solid & ~covered
        area = int(seen.sum())
        share = area / max(int((sprite.alpha >= 0.5).sum()), 1)
        if area >= _MIN_AREA and share >= _MIN_VISIBLE:
            covered |= solid
            kept.append(sprite)
            instances.append(Instance(sprite.kind, seen, share))
    return kept[::-1], instances[::-1]


def _pile_instance(pile: list[Sprite], above: list[Instance], shape: tuple[int, int]) -> Instance:
    """Return the single annotation of a pile that lies below the instances ``above``."""
    solid = np.logical_or.reduce([_solid(sprite, shape) for sprite in pile]).astype(np.uint8)
    # The gaps belong to the pile, as in a crowd that people annotate.
    filled = cv2.morphologyEx(solid, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0
    seen = filled & ~np.logical_or.reduce([np.zeros(shape, bool), *(i.mask for i in above)])
    return Instance(pile[0].kind, seen, float(seen.sum() / filled.sum()), crowd=True)


def _light(rng: Generator) -> np.ndarray:
    """Draw a unit vector (3,) towards a light 37 to 63 degrees above the background."""
    azimuth, elevation = rng.uniform(-np.pi, np.pi), rng.uniform(0.65, 1.1)
    flat = math.cos(elevation)
    return np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])


def _expose(rng: Generator, canvas: np.ndarray, size: int) -> np.ndarray:
    """Return the photograph (H, W, 3) uint8 of a scene: uneven light, tint, blur and noise."""
    h, w = canvas.shape[:2]
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    angle = rng.uniform(-np.pi, np.pi)
    fall = rng.uniform(0, 0.22) * (x * math.cos(angle) + y * math.sin(angle))
    lit = rng.uniform(0.9, 1.12) * (1 + fall) * (1 - rng.uniform(0, 0.12) * (x * x + y * y))
    if rng.random() < 0.25:  # the shadow of something outside the image
        lit = lit * (1 - rng.uniform(0.2, 0.4) * step(noise(rng, (h, w), size * 0.4), 0.45, 0.6))
    warmth = rng.normal(0, 0.035)
    image = canvas * lit[..., None] * np.array([1 + warmth, 1, 1 - warmth], np.float32)
    image = _blur(image, rng.uniform(0.3, 0.55)) if rng.random() < 0.5 else image
    grain = rng.standard_normal(image.shape, np.float32) * rng.uniform(0.004, 0.014)
    return np.clip((image + grain) * 255 + 0.5, 0, 255).astype(np.uint8)


def draw_scene(rng: Generator, size: int, *, empty: bool = False, crowd: bool = False) -> Scene:
    """Draw one scene.

    Args:
        rng: The only source of randomness: equal generators give equal scenes.
        size: Longer side in pixels; the image is 4:3, 1:1 or 3:4.
        empty: Draw the background only.
        crowd: Add a pile of tiny objects, annotated as one.

    Returns:
        A scene of 1 to 7 objects (none if ``empty``). At least half of each is visible; of two
        that overlap, the later one hides the earlier.
    """
    short = round(size * 0.75)
    shape = ((short, size), (size, size), (size, short))[rng.integers(3)]
    unit = size / 192
    light = _light(rng)
    canvas, materials = _background(rng, shape, unit, light)

    pile, taken, sprites = [], [], []
    if crowd:
        pile, disc = _pile(rng, canvas, size, light)
        taken.append(disc)
    for _ in range(0 if empty else 1 + rng.choice(7, p=[0.18, 0.26, 0.24, 0.16, 0.09, 0.05, 0.02])):
        if (place := _place(rng, shape, size, taken)) is not None:
            taken.append(place)
            x, y, diameter = place
            kind = int(rng.integers(len(OBJECTS)))
            below = _mean_colour(canvas, x, y, diameter / 2)
            sprites.append(draw_object(rng, kind, (x, y), diameter, light, below, unit))

    # Objects that are mostly hidden are not drawn at all, rather than drawn without annotation.
    sprites, instances = _visible(sprites, shape)
    if not (instances or empty):  # rare: the only object was too small to count
        return draw_scene(rng, size, crowd=crowd)
    if pile:
        instances.insert(0, _pile_instance(pile, instances, shape))
    for sprite in pile + sprites:
        _lay(canvas, sprite, light, unit)
    return Scene(_expose(rng, canvas, size), materials, tuple(instances))
