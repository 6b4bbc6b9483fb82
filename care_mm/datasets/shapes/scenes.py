"""Scenes: things on a ground, under a light, with exact masks. Nothing here touches a disk, and the
only source of chance is the generator that :func:`draw_scene` is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from care_mm.datasets.shapes.backgrounds import MATERIALS, draw_ground, noise, step
from care_mm.datasets.shapes.objects import OBJECTS, Sprite, draw_object

_MIN_VISIBLE = 0.5  # share of an object that must be seen for it to stay in its scene
_MIN_AREA = 20  # pixels of a visible mask


@dataclass(frozen=True)
class Instance:
    """One annotated thing: an object, or a pile of tiny objects of one kind (``crowd``)."""

    kind: int  # index into OBJECTS
    mask: np.ndarray  # (H, W) bool: what is seen of it
    visible: float  # share of the whole object that is seen, counting frame and overlaps
    crowd: bool = False

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Tight box around the mask: x, y, width, height in pixels."""
        xs, ys = np.flatnonzero(self.mask.any(0)), np.flatnonzero(self.mask.any(1))
        return int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)


@dataclass(frozen=True)
class Scene:
    """A picture and all that is known about it."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    materials: np.ndarray  # (H, W) uint8: index into MATERIALS of the ground at each pixel
    instances: tuple[Instance, ...]  # masks are disjoint

    def semantic(self) -> np.ndarray:
        """(H, W) uint8: 0 is unlabelled (piles), then 1.. for OBJECTS, then MATERIALS."""
        labels = self.materials + np.uint8(1 + len(OBJECTS))
        for instance in self.instances:
            labels[instance.mask] = 0 if instance.crowd else 1 + instance.kind
        return labels


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), max(sigma, 0.3))


def _shifted(image: np.ndarray, dx: float, dy: float) -> np.ndarray:
    move = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return cv2.warpAffine(image, move, image.shape[::-1])


def _two_grounds(
    rng: Generator, shape: tuple[int, int], unit: float, light: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A ground (H, W, 3), of two materials more often than not, and which is where (H, W)."""
    names = rng.permutation(len(MATERIALS))[:2]
    lower = draw_ground(rng, MATERIALS[names[0]], shape, unit, light)
    labels = np.full(shape, names[0], np.uint8)
    style = rng.random()
    if style < 0.4:
        return lower, labels
    h, w = shape
    y, x = np.mgrid[:h, :w].astype(np.float32)
    angle = rng.uniform(-np.pi, np.pi)
    x, y = x - w * rng.uniform(0.3, 0.7), y - h * rng.uniform(0.3, 0.7)
    a, b = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    if style < 0.75:  # the edge of a table, of a lawn
        inside = a
    else:  # a mat
        corner = 8 * unit
        da = np.abs(a) - min(h, w) * rng.uniform(0.3, 0.5) + corner
        db = np.abs(b) - min(h, w) * rng.uniform(0.3, 0.5) + corner
        inside = corner - np.hypot(np.maximum(da, 0), np.maximum(db, 0))
    alpha = step(inside, -0.7, 0.7)
    rise = rng.uniform(1.5, 5) * unit
    shadow = _blur(_shifted(alpha, -rise * light[0], -rise * light[1]), 1.5 * unit)
    upper = draw_ground(rng, MATERIALS[names[1]], shape, unit, light)
    lower = lower * (1 - 0.5 * shadow)[..., None]
    labels[alpha >= 0.5] = names[1]
    return lower + (upper - lower) * alpha[..., None], labels


def _clip(
    sprite: Sprite, shape: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a sprite lies in the picture, and the part of the sprite that does."""
    picture, own = [], []
    for start, length, limit in zip(
        (sprite.top, sprite.left), sprite.alpha.shape, shape, strict=True
    ):
        low, high = max(start, 0), max(min(start + length, limit), max(start, 0))
        picture.append(slice(low, high))
        own.append(slice(low - start, high - start))
    return tuple(picture), tuple(own)


def _solid(sprite: Sprite, shape: tuple[int, int]) -> np.ndarray:
    """The pixels (H, W) that a sprite covers at least by half."""
    mask = np.zeros(shape, bool)
    there, own = _clip(sprite, shape)
    mask[there] = sprite.alpha[own] >= 0.5
    return mask


def _lay(canvas: np.ndarray, sprite: Sprite, light: np.ndarray, unit: float) -> None:
    """Draw a sprite and its shadow into ``canvas`` (H, W, 3), in place."""
    reach = sprite.height / max(light[2], 0.3)
    pad = math.ceil(reach + 6 * unit) + 2
    cast = cv2.copyMakeBorder(sprite.alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    # Half the length: what rises at the middle of an object throws its shadow from there.
    soft = _blur(
        _shifted(cast, -0.5 * reach * light[0], -0.5 * reach * light[1]), 0.12 * reach + 0.8 * unit
    )
    touch = _blur(cast, 1.2 * unit)  # little light gets in where it meets the ground
    shade = Sprite(
        0,
        sprite.rgb,
        1 - (1 - 0.5 * soft) * (1 - 0.3 * touch),
        sprite.top - pad,
        sprite.left - pad,
        0,
    )
    there, own = _clip(shade, canvas.shape[:2])
    canvas[there] *= 1 - shade.alpha[own][..., None]
    there, own = _clip(sprite, canvas.shape[:2])
    canvas[there] *= 1 - sprite.alpha[own][..., None]
    canvas[there] += sprite.rgb[own]


def _place(
    rng: Generator, shape: tuple[int, int], size: int, taken: list[tuple[float, float, float]]
) -> tuple[float, float, float] | None:
    """Centre x, y and diameter in pixels for one more object, or None where there is no room."""
    h, w = shape
    # Small to large, from 1/12 to 7/12 of the side; half of them are above a third.
    diameter = size / 12 * 7.0 ** rng.beta(3, 1.25)
    lean = bool(taken) and rng.random() < 0.2  # on or against another one; the rest lie free
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
    """Some dozens of tiny objects of one kind in a heap, and the disc (x, y, diameter) it fills."""
    (h, w), unit = canvas.shape[:2], size / 192
    kind, spread = int(rng.integers(len(OBJECTS))), size * rng.uniform(0.1, 0.15)
    x, y = rng.uniform(0.25, 0.75) * w, rng.uniform(0.25, 0.75) * h
    ground, sprites = _ground_colour(canvas, x, y, spread), []
    for _ in range(rng.integers(35, 60)):
        dx, dy = np.clip(rng.normal(0, 0.6, 2), -1.3, 1.3) * spread
        diameter = size * rng.uniform(0.045, 0.065)
        sprites.append(draw_object(rng, kind, (x + dx, y + dy), diameter, light, ground, unit))
    return sprites, (x, y, 2.6 * spread)


def _ground_colour(canvas: np.ndarray, x: float, y: float, reach: float) -> np.ndarray:
    """Mean colour (3,) of ``canvas`` (H, W, 3) around a point in it."""
    rows = slice(max(int(y - reach), 0), int(y + reach) + 1)
    columns = slice(max(int(x - reach), 0), int(x + reach) + 1)
    return np.array(cv2.mean(canvas[rows, columns])[:3], np.float32)


def _visible(sprites: list[Sprite], shape: tuple[int, int]) -> tuple[list[Sprite], list[Instance]]:
    """The sprites, lowest first, that are seen well enough, and what is seen of each."""
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


def _heap(pile: list[Sprite], above: list[Instance], shape: tuple[int, int]) -> Instance:
    """The one annotation of a pile that lies below the instances ``above``."""
    solid = np.logical_or.reduce([_solid(sprite, shape) for sprite in pile]).astype(np.uint8)
    # The gaps within a heap belong to it, as in a crowd that people annotate.
    whole = cv2.morphologyEx(solid, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0
    seen = whole & ~np.logical_or.reduce([np.zeros(shape, bool), *(i.mask for i in above)])
    return Instance(pile[0].kind, seen, float(seen.sum() / whole.sum()), crowd=True)


def _light(rng: Generator) -> np.ndarray:
    """Unit vector (3,) towards a light that stands 37 to 63 degrees above the ground."""
    azimuth, elevation = rng.uniform(-np.pi, np.pi), rng.uniform(0.65, 1.1)
    flat = math.cos(elevation)
    return np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])


def _expose(rng: Generator, canvas: np.ndarray, size: int) -> np.ndarray:
    """The photograph (H, W, 3) uint8 of a drawn scene: uneven light, tint, softness and noise."""
    h, w = canvas.shape[:2]
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    angle = rng.uniform(-np.pi, np.pi)
    fall = rng.uniform(0, 0.22) * (x * math.cos(angle) + y * math.sin(angle))
    lit = rng.uniform(0.9, 1.12) * (1 + fall) * (1 - rng.uniform(0, 0.12) * (x * x + y * y))
    if rng.random() < 0.25:  # the shade of something outside the picture
        lit = lit * (1 - rng.uniform(0.2, 0.4) * step(noise(rng, (h, w), size * 0.4), 0.45, 0.6))
    warmth = rng.normal(0, 0.035)
    picture = canvas * lit[..., None] * np.array([1 + warmth, 1, 1 - warmth], np.float32)
    picture = _blur(picture, rng.uniform(0.3, 0.55)) if rng.random() < 0.5 else picture
    grain = rng.standard_normal(picture.shape, np.float32) * rng.uniform(0.004, 0.014)
    return np.clip((picture + grain) * 255 + 0.5, 0, 255).astype(np.uint8)


def draw_scene(rng: Generator, size: int, *, empty: bool = False, crowd: bool = False) -> Scene:
    """Draw one scene.

    Args:
        rng: The only source of chance: equal generators give equal scenes.
        size: Longer side in pixels; the picture is 4:3, 1:1 or 3:4.
        empty: Ground only.
        crowd: Add a pile of tiny objects, annotated as one.

    Returns:
        A scene of 1 to 7 objects (none if ``empty``). Each is seen to at least 35%; of two that
        overlap, the later one hides the earlier.
    """
    short = round(size * 0.75)
    shape = ((short, size), (size, size), (size, short))[rng.integers(3)]
    unit = size / 192
    light = _light(rng)
    canvas, materials = _two_grounds(rng, shape, unit, light)

    pile, taken, sprites = [], [], []
    if crowd:
        pile, disc = _pile(rng, canvas, size, light)
        taken.append(disc)
    for _ in range(0 if empty else 1 + rng.choice(7, p=[0.18, 0.26, 0.24, 0.16, 0.09, 0.05, 0.02])):
        if (place := _place(rng, shape, size, taken)) is not None:
            taken.append(place)
            x, y, diameter = place
            kind = int(rng.integers(len(OBJECTS)))
            below = _ground_colour(canvas, x, y, diameter / 2)
            sprites.append(draw_object(rng, kind, (x, y), diameter, light, below, unit))

    # What is hidden too much is left out of the picture, not only unannotated.
    sprites, instances = _visible(sprites, shape)
    if not (instances or empty):  # rare: the only object was too small to count
        return draw_scene(rng, size, crowd=crowd)
    if pile:
        instances.insert(0, _heap(pile, instances, shape))
    for sprite in pile + sprites:
        _lay(canvas, sprite, light, unit)
    return Scene(_expose(rng, canvas, size), materials, tuple(instances))
