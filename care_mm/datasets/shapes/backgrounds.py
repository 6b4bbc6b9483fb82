"""Backgrounds of cloth, grass, sand, tile and wood, drawn from noise.

Images are RGB floats in 0..1; ``x`` points right, ``y`` down, ``z`` to the viewer. Lengths are
multiples of ``unit`` = size / 192 pixels, so that threads and planks grow with the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator

# Noise and colour


def noise(rng: Generator, shape: tuple[int, int], cell: float | tuple[float, float]) -> np.ndarray:
    """Draw smooth noise (h, w) in about 0..1 with blobs of ``cell`` (or cell_y, cell_x) pixels."""
    (h, w), (cy, cx) = shape, cell if isinstance(cell, tuple) else (cell, cell)
    cy, cx = max(cy, 1.0), max(cx, 1.0)
    grid = rng.random((math.ceil(h / cy) + 2, math.ceil(w / cx) + 2), np.float32)
    size = (math.ceil(grid.shape[1] * cx), math.ceil(grid.shape[0] * cy))
    big = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
    top, left = int(cy / 2), int(cx / 2)
    return big[top : top + h, left : left + w]


def grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel coordinates y, x, (n, n) float32 each."""
    y, x = np.mgrid[:n, :n].astype(np.float32)
    return y, x


def step(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return a smooth step from 0 to 1 between ``low`` and ``high``."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Blend colours (..., 3): ``a`` where ``t`` (h, w) is 0, ``b`` where ``t`` is 1."""
    return a + (b - a) * t[..., None]


def colour(
    rng: Generator,
    saturation: tuple[float, float],
    value: tuple[float, float],
    hue: tuple[float, float] | None = None,
) -> np.ndarray:
    """Draw a colour (3,) within the ranges; ``hue`` runs from red at 0 round to red at 1."""
    h, s, v = rng.uniform(*(hue or (0, 1))) * 6, rng.uniform(*saturation), rng.uniform(*value)
    fade = np.clip(np.abs((h + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return (v * (1 - s + s * fade)).astype(np.float32)


def relief(height: np.ndarray, light: np.ndarray, strength: float) -> np.ndarray:
    """Return the factor (h, w) around 1 by which a light brightens slopes that face it."""
    dy, dx = np.gradient(height)
    return np.clip(1 - strength * (dx * light[0] + dy * light[1]), 0.4, 1.6)


# Materials: (generator, side n, unit, light (2,)) -> (n, n, 3)


def _cloth(rng: Generator, n: int, unit: float, light: np.ndarray) -> np.ndarray:
    y, x = grid(n)
    folds = noise(rng, (n, n), 55 * unit)
    x, y = x + folds * 14 * unit, y + folds * 9 * unit  # threads follow the folds
    thread = unit * rng.uniform(2.6, 4.2)
    over = (np.floor(x / thread) + np.floor(y / thread)) % 2
    weave = np.where(
        over > 0, np.abs(np.sin(np.pi * x / thread)), np.abs(np.sin(np.pi * y / thread))
    )
    main, other = colour(rng, (0.2, 0.7), (0.3, 0.85)), colour(rng, (0.0, 0.15), (0.75, 0.95))
    band = unit * rng.uniform(14, 34)
    along, across = (step(np.sin(2 * np.pi * c / band), -0.15, 0.15) for c in (x, y))
    style = rng.integers(3)
    t = (np.zeros_like(x), 0.5 * (along + across), along)[style]  # plain, gingham, stripes
    shade = (0.8 + 0.25 * weave) * relief(folds, light, 9 * unit)
    return mix(main, other, t) * shade[..., None]


def _grass(rng: Generator, n: int, unit: float, light: np.ndarray) -> np.ndarray:
    lush, dry = np.array([[0.2, 0.42, 0.12], [0.5, 0.5, 0.2]], np.float32)
    base = mix(lush, dry, np.full((), rng.uniform(0, 0.6))) * rng.uniform(0.8, 1.15)
    patches = 0.55 + 0.4 * noise(rng, (n, n), 30 * unit) + 0.2 * noise(rng, (n, n), 5 * unit)
    canvas = np.ascontiguousarray(np.clip(base * patches[..., None], 0, 1) * 255, np.uint8)
    count = int((n / unit) ** 2 / 38)
    root = rng.random((count, 2)) * n
    lean = rng.normal(rng.uniform(-np.pi, np.pi), 0.9, count)
    reach = unit * rng.uniform(4, 13, (count, 1))
    tip = root + reach * np.stack([np.cos(lean), np.sin(lean)], 1)
    tint = np.clip(
        base * rng.uniform(0.55, 1.7, (count, 1)) + rng.normal(0, 0.03, (count, 3)), 0, 1
    )
    ends = np.stack([root, tip], 1)
    ends = np.round(ends * 16).astype(np.int32)  # 4 fractional bits
    width = max(1, round(unit))
    for line, colour in zip(ends.tolist(), (tint * 255).tolist(), strict=True):
        cv2.line(canvas, *line, colour, width, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def _sand(rng: Generator, n: int, unit: float, light: np.ndarray) -> np.ndarray:
    y, _ = grid(n)
    tones = np.array(
        [[0.86, 0.74, 0.54], [0.76, 0.62, 0.45], [0.9, 0.84, 0.72], [0.62, 0.55, 0.48]], np.float32
    )
    tone = tones[rng.integers(4)] * rng.uniform(0.9, 1.05)
    warp = noise(rng, (n, n), 45 * unit) * 26 + noise(rng, (n, n), 14 * unit) * 5
    ripple = np.sin((y / unit + warp) * 2 * np.pi / rng.uniform(11, 20))
    grain = rng.standard_normal((n, n), np.float32)
    coarse = noise(rng, (n, n), 2.2 * unit)
    shade = relief(ripple * rng.uniform(0.15, 0.9) * unit + coarse * 0.6 * unit, light, 0.55)
    specks = np.where(grain > 2.3, 0.72, 1.0)
    return tone * (shade * specks * (1 + 0.045 * grain))[..., None].astype(np.float32)


def _tile(rng: Generator, n: int, unit: float, light: np.ndarray) -> np.ndarray:
    y, x = grid(n)
    side, joint = unit * rng.uniform(24, 46), unit * rng.uniform(0.9, 1.6)
    row, column = np.floor(y / side).astype(int), np.floor(x / side).astype(int)
    tone = rng.normal(1, 0.05, (row.max() + 1, column.max() + 1)).astype(np.float32)[row, column]
    main = colour(rng, (0.04, 0.45), (0.55, 0.92))
    other = main * rng.uniform(0.55, 0.8) if rng.random() < 0.5 else main
    veins = np.abs(noise(rng, (n, n), 24 * unit) - 0.5 + 0.3 * noise(rng, (n, n), 7 * unit) - 0.15)
    rgb = mix(main, other, ((row + column) % 2).astype(np.float32))
    rgb = rgb * (tone * (1 - 0.22 * (1 - step(veins, 0, 0.07))))[..., None]
    py, px = y % side, x % side
    edge = np.minimum(np.minimum(py, side - py), np.minimum(px, side - px))
    rim = joint + 1.8 * unit  # rounded edges catch the light on one side
    facing = light[0] * ((px > side - rim) * 1.0 - (px < rim)) + light[1] * (
        (py > side - rim) * 1.0 - (py < rim)
    )
    rgb = rgb * (1 + 0.22 * facing)[..., None]
    grout = np.float32(rng.uniform(0.35, 0.8)) * np.ones(3, np.float32)
    return mix(grout, rgb, step(edge, joint - 0.6, joint + 0.6))


def _wood(rng: Generator, n: int, unit: float, light: np.ndarray) -> np.ndarray:
    y, x = grid(n)
    tones = np.array(
        [[0.72, 0.5, 0.3], [0.44, 0.28, 0.18], [0.84, 0.7, 0.5], [0.56, 0.5, 0.45]], np.float32
    )
    tone = tones[rng.integers(4)] * rng.uniform(0.9, 1.1)
    width = unit * rng.uniform(26, 58)
    plank = np.floor(y / width).astype(int)
    planks = plank.max() + 1
    start = rng.integers(0, n, planks)[plank]  # each plank has another part of the grain
    rows, columns = y.astype(int), x.astype(int) + start
    fibre = noise(rng, (n, 2 * n), (1.3 * unit, 38 * unit))[rows, columns]
    slow = noise(rng, (n, 2 * n), (16 * unit, 90 * unit))[rows, columns]
    rings = np.sin(2 * np.pi * (slow * 5 + y / width * 1.5))
    gain = rng.normal(1, 0.09, planks).astype(np.float32)[plank]
    rgb = tone * (gain * (1 + 0.3 * (fibre - 0.5) + 0.1 * rings))[..., None]
    gap = np.minimum(y % width, width - y % width)
    return rgb * (0.4 + 0.6 * step(gap, 0.2 * unit, 1.3 * unit))[..., None]


_KINDS: dict[str, Callable[[Generator, int, float, np.ndarray], np.ndarray]] = {
    "cloth": _cloth,
    "grass": _grass,
    "sand": _sand,
    "tile": _tile,
    "wood": _wood,
}
MATERIALS = tuple(_KINDS)


def draw_background(
    rng: Generator, name: str, shape: tuple[int, int], unit: float, light: np.ndarray
) -> np.ndarray:
    """Draw one material over a whole image (h, w, 3), rotated by a random angle.

    Args:
        rng: The source of randomness.
        name: One of :data:`MATERIALS`.
        shape: Height and width in pixels.
        unit: Pixels per unit of length.
        light: Unit vector (3,) towards the light.
    """
    h, w = shape
    n = math.ceil(math.hypot(h, w)) + 2
    angle = rng.uniform(-np.pi, np.pi)
    c, s = math.cos(angle), math.sin(angle)
    texture = _KINDS[name](
        rng, n, unit, np.array([c * light[0] - s * light[1], s * light[0] + c * light[1]])
    )
    # The rows map image to texture coordinates, centre to centre.
    turn = np.array([[c, -s, n / 2 - c * w / 2 + s * h / 2], [s, c, n / 2 - s * w / 2 - c * h / 2]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        texture.astype(np.float32), turn, (w, h), flags=flags, borderMode=cv2.BORDER_REFLECT
    )
