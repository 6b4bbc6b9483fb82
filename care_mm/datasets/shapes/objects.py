"""The six kinds of object, each drawn as a small image with an alpha channel.

A kind is a function from coordinates to a :class:`Surface`. The coordinates (u, v) are relative to
the object, which fits the unit disc whatever its size and rotation in the image. Nine of ten
objects of a kind share a hue and a pattern, as things do in the world; the others do not, so that
colour alone does not reveal the kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from care_mm.datasets.shapes.backgrounds import colour, mix, noise, step

_AMBIENT = 0.42  # light from all directions


@dataclass
class Surface:
    """The surface of an object at the points of its patch; all arrays are (h, w)."""

    inside: np.ndarray  # bool
    normal: tuple[np.ndarray, np.ndarray, np.ndarray]  # unit vectors, in the object's frame
    texture: tuple[np.ndarray, np.ndarray]  # position in the pattern, about -1..1
    gloss: float = 0.2
    shade: np.ndarray | float = 1.0  # factor on the colour: creases, veins
    paint: tuple[tuple[np.ndarray, np.ndarray], ...] = ()  # (mask, colour) over the pattern


@dataclass
class Sprite:
    """A drawn object, before it is placed in an image."""

    kind: int  # index into OBJECTS
    rgb: np.ndarray  # (h, w, 3), multiplied by alpha
    alpha: np.ndarray  # (h, w)
    top: int  # row of the image for row 0; may be negative
    left: int
    height: float  # above the background, in pixels; sets the length of the shadow


def _ball(u: np.ndarray, v: np.ndarray, rng: Generator) -> Surface:
    r2 = u * u + v * v
    z = np.sqrt(np.clip(1 - r2, 0, 1))
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))  # the visible side of the pattern
    a, b, c = (u * q[i, 0] + v * q[i, 1] + z * q[i, 2] for i in range(3))
    return Surface(r2 <= 1, (u, v, z), (np.arctan2(a, b) / np.pi, c), gloss=0.55)


def _cube(u: np.ndarray, v: np.ndarray, rng: Generator) -> Surface:
    yaw, tilt = (
        rng.uniform(np.radians(30), np.radians(60)),
        rng.uniform(np.radians(40), np.radians(58)),
    )
    cy, sy, ct, st = math.cos(yaw), math.sin(yaw), math.cos(tilt), math.sin(tilt)
    axes = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, ct, st], [0, -st, ct]]
    )  # rows: the cube's edges seen from the camera; the faces used below face it
    half = 0.58
    inside = np.zeros(u.shape, bool)
    normal, texture = (np.zeros((c, *u.shape), np.float32) for c in (3, 2))
    shade = np.ones(u.shape, np.float32)
    for k in range(3):
        n = axes[k] * (1 if axes[k, 2] > 0 else -1)
        e, f = axes[(k + 1) % 3], axes[(k + 2) % 3]
        det = e[0] * f[1] - e[1] * f[0]
        x, y = u / half - n[0], v / half - n[1]
        a, b = (x * f[1] - y * f[0]) / det, (y * e[0] - x * e[1]) / det
        face = (np.abs(a) <= 1) & (np.abs(b) <= 1)
        inside |= face
        normal[:, face] = n[:, None]
        texture[:, face] = a[face] + 0.37 * k, b[face] + 0.21 * k
        rim = np.maximum(np.abs(a), np.abs(b))[face]
        shade[face] = 1 + 0.18 * step(rim, 0.86, 0.92)  # worn, lighter edges
    return Surface(inside, tuple(normal), tuple(texture), gloss=0.1, shade=shade)


def _flower(u: np.ndarray, v: np.ndarray, rng: Generator) -> Surface:
    petals = int(rng.integers(5, 8))
    r, angle = np.maximum(np.hypot(u, v), 1e-3), np.arctan2(v, u)
    lobe = np.abs(np.cos(angle * petals / 2))  # 1 along a petal, 0 between two
    edge = 0.52 + 0.48 * lobe**0.6
    heart = r < rng.uniform(0.24, 0.3)
    slope = np.where(heart, 2.2 * r, -0.45 * (1 - r / edge) - 0.15)  # a dome in a shallow cup
    z = 1 / np.sqrt(1 + slope * slope)
    normal = (slope * u / r * z, slope * v / r * z, z)
    shade = np.where(heart, 1.0, 0.6 + 0.4 * step(lobe, 0.05, 0.6))
    shade = shade * (1 + 0.08 * np.where(heart, 0, np.sin(angle * petals * 6)))  # veins
    pollen = colour(rng, (0.5, 0.8), (0.3, 0.55), (0.06, 0.1))
    return Surface(
        r <= edge,
        normal,
        (1.6 * r - 1, angle / np.pi),
        gloss=0.05,
        shade=shade,
        paint=((heart, pollen),),
    )


def _leaf(u: np.ndarray, v: np.ndarray, rng: Generator) -> Surface:
    v = v - rng.uniform(-0.22, 0.22) * (u * u - 0.3)  # bent
    x = np.clip((u + 0.68) / 1.66, 0, 1)
    width = rng.uniform(1.2, 1.5) * x**0.55 * (1 - x) ** 0.8
    width = width * (1 + 0.07 * (np.abs((x * 9) % 1 - 0.5) * 2 - 0.5))  # serrated
    stem = (u > -0.98) & (u < -0.6) & (np.abs(v) < 0.045)
    inside = (np.abs(v) < width) & (x > 0) & (x < 1) | stem
    side = np.sign(v)
    ribs = np.abs(((u - 0.75 * np.abs(v)) * 4.5) % 1 - 0.5) * 2  # 1 on a side vein
    vein = np.maximum(1 - step(np.abs(v), 0.015, 0.045), step(ribs, 0.8, 0.95) * 0.8)
    tilt = side * (0.45 - 0.35 * np.abs(v) / np.maximum(width, 1e-3)) + 0.25 * (ribs - 0.5) * side
    z = 1 / np.sqrt(1 + tilt * tilt + 0.02)
    normal = (0.14 * z, -tilt * z, z)
    shade = np.where(stem & (x < 0.03), 0.6, 1 + 0.3 * vein)
    return Surface(inside, normal, (u, v), gloss=0.08, shade=shade)


def _ring(u: np.ndarray, v: np.ndarray, rng: Generator) -> Surface:
    thick = rng.uniform(0.2, 0.29)
    r = np.maximum(np.hypot(u, v), 1e-3)
    d = (r - (1 - thick)) / thick
    z = np.sqrt(np.clip(1 - d * d, 0, 1))
    return Surface(
        np.abs(d) <= 1, (d * u / r, d * v / r, z), (np.arctan2(u, v) / np.pi * 1.5, d), gloss=0.5
    )


def _star(u: np.ndarray, v: np.ndarray, rng: Generator) -> Surface:
    inner = rng.uniform(0.42, 0.52)
    fifth = 2 * np.pi / 5
    angle = np.arctan2(v, u)
    arm = np.round(angle / fifth) * fifth
    c, s = np.cos(arm), np.sin(arm)
    x, y = u * c + v * s, v * c - u * s  # in the frame of the nearest arm
    side = np.where(y < 0, -1.0, 1.0)
    # Each half of an arm is one plane from the edge up to the centre: a bevelled star.
    px, py = inner * math.cos(fifth / 2), inner * math.sin(fifth / 2)
    ex, ey = py, 1 - px  # outward normal of the edge from (1, 0) to (px, py), y > 0 side
    norm = math.hypot(ex, ey)
    ex, ey = ex / norm, ey / norm
    inside = x * ex + np.abs(y) * ey <= ex
    nx, ny = ex * 0.62, side * ey * 0.62
    z = np.full_like(u, math.sqrt(1 - 0.62**2))
    return Surface(inside, (nx * c - ny * s, nx * s + ny * c, z), (u, v), gloss=0.15)


# In alphabetical order, so that class folders give the same labels.
_KINDS: dict[str, Callable[[np.ndarray, np.ndarray, Generator], Surface]] = {
    "ball": _ball,
    "cube": _cube,
    "flower": _flower,
    "leaf": _leaf,
    "ring": _ring,
    "star": _star,
}
OBJECTS = tuple(_KINDS)
_RISE = {
    "ball": 0.9,
    "cube": 0.9,
    "flower": 0.15,
    "leaf": 0.12,
    "ring": 0.35,
    "star": 0.3,
}  # height / radius
_STRETCH = {"leaf": 1.15}  # a leaf is slim: longer, so that it is not the smallest


_PLAIN, _STRIPES, _DOTS, _CHECKS, _MARBLE = range(5)
# The hue (0 to 1) and pattern that most objects of a kind share.
_USUAL = {
    "ball": (0.98, _DOTS),
    "cube": (0.60, _CHECKS),
    "flower": (0.12, _PLAIN),
    "leaf": (0.27, _PLAIN),
    "ring": (0.49, _STRIPES),
    "star": (0.82, _PLAIN),
}
_SHARE_USUAL = 0.9


def _pattern(
    rng: Generator, s: np.ndarray, t: np.ndarray, small: bool, usual: int | None
) -> np.ndarray:
    """Return the share of the second colour (h, w): plain, stripes, dots, checks or marble.

    Small objects are plain or striped, since the other patterns are only noise on a few pixels.
    """
    style = rng.choice(5, p=[0.7, 0.3, 0, 0, 0] if small else [0.3, 0.22, 0.16, 0.14, 0.18])
    if usual is not None and not (small and usual > _STRIPES):
        style = usual
    per = rng.uniform(1.5, 2.6)
    if style == 0:
        return np.zeros(s.shape, np.float32)
    if style == 1:
        return step(np.sin(s * per * 2 * np.pi), -0.12, 0.12)
    if style == 2:
        a, b = (s * per * 1.4) % 1 - 0.5, (t * per) % 1 - 0.5
        return 1 - step(np.hypot(a, b), 0.25, 0.31)
    if style == 3:
        return step(np.sin(s * per * 2 * np.pi) * np.sin(t * per * np.pi), -0.04, 0.04)
    cloud = noise(rng, s.shape, max(s.shape) / 5) + 0.5 * noise(rng, s.shape, max(s.shape) / 12)
    return step(np.sin(s * 3 + cloud * 9), -0.5, 0.9)


def _colours(
    rng: Generator, background: np.ndarray, hue: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw two colours (3,) for an object; the first differs visibly from ``background`` (3,).

    Each attempt allows colours farther from ``hue``.
    """
    for spread in np.linspace(0.04, 0.12, 24):
        near = None if hue is None else (hue - spread, hue + spread)
        first = colour(rng, (0.45, 0.95), (0.5, 0.98), near)
        if np.abs(first - background).sum() > 0.85:
            break
    second = first * rng.uniform(0.45, 0.7)
    if rng.random() < 0.6:
        second = 0.25 * first + 0.75 * rng.uniform(0.8, 0.98)
    return first, second


def draw_object(
    rng: Generator,
    kind: int,
    centre: tuple[float, float],
    diameter: float,
    light: np.ndarray,
    background: np.ndarray,
    unit: float,
) -> Sprite:
    """Draw one object with random rotation, colours and pattern.

    Args:
        rng: The source of randomness.
        kind: Index into :data:`OBJECTS`.
        centre: x and y in pixels of the image.
        diameter: Diameter in pixels of the disc that the object fits.
        light: Unit vector (3,) towards the light.
        background: Colour (3,) below the object, from which it must differ.
        unit: Pixels per unit of length, as in :mod:`care_mm.datasets.shapes.backgrounds`.
    """
    name = OBJECTS[kind]
    diameter = diameter * _STRETCH.get(name, 1.0)
    # Supersampling smooths the edges; large objects need less of it.
    k = 3 if diameter < 40 else 2
    left, top = math.floor(centre[0] - diameter / 2) - 1, math.floor(centre[1] - diameter / 2) - 1
    n = math.ceil(diameter) + 3
    at = (np.arange(n * k, dtype=np.float32) + 0.5) / k
    dx = ((at + (left - centre[0])) * (2 / diameter))[None, :]
    dy = ((at + (top - centre[1])) * (2 / diameter))[:, None]
    turn = rng.uniform(-np.pi, np.pi)
    c, s = math.cos(turn), math.sin(turn)
    surface = _KINDS[name](dx * c + dy * s, dy * c - dx * s, rng)

    hue, pattern = _USUAL[name] if rng.random() < _SHARE_USUAL else (None, None)
    first, second = _colours(rng, background, hue)
    rgb = mix(first, second, _pattern(rng, *surface.texture, diameter < 30 * unit, pattern))
    for mask, paint in surface.paint:
        rgb = np.where(mask[..., None], paint, rgb)
    speckle = 1 + 0.05 * (noise(rng, (n * k, n * k), 2.0 * k) - 0.5)
    lx, ly, z = light.tolist()
    x, y = lx * c + ly * s, ly * c - lx * s
    nx, ny, nz = surface.normal
    diffuse = np.clip(nx * x + ny * y + nz * z, 0, 1)
    half = [part / math.hypot(x, y, z + 1) for part in (x, y, z + 1)]
    mirror = np.clip(nx * half[0] + ny * half[1] + nz * half[2], 0, 1) ** 40
    lit = (_AMBIENT + (1.15 - _AMBIENT) * diffuse) * surface.shade * speckle
    rgb = np.clip(rgb * lit[..., None] + (surface.gloss * mirror)[..., None], 0, 1)

    alpha = surface.inside.astype(np.float32)
    small = cv2.resize(
        np.dstack([rgb * alpha[..., None], alpha]).astype(np.float32),
        (n, n),
        interpolation=cv2.INTER_AREA,
    )
    return Sprite(kind, small[..., :3], small[..., 3], top, left, _RISE[name] * diameter / 2)
