"""Objects and scenes have exact masks."""

from __future__ import annotations

import numpy as np
import pytest

from care_mm.datasets.shapes import FORMAT, MATERIALS, OBJECTS, draw_scene, scene_at
from care_mm.datasets.shapes.objects import draw_object


@pytest.mark.parametrize("kind", range(len(OBJECTS)), ids=OBJECTS)
def test_objects_are_drawn_at_their_centre(kind):
    light, background = np.array([0.5, 0.3, 0.81]), np.full(3, 0.5, np.float32)
    for seed in range(5):
        rng = np.random.default_rng([seed, kind])
        x, y = rng.uniform(40, 60, 2)
        sprite = draw_object(rng, kind, (x, y), 40.0, light, background, 1.0)
        assert sprite.alpha.min() >= 0 and sprite.alpha.max() == 1
        assert (sprite.rgb <= sprite.alpha[..., None] + 1e-5).all()  # nothing outside the mask
        ys, xs = np.mgrid[: sprite.alpha.shape[0], : sprite.alpha.shape[1]]
        area = sprite.alpha.sum()
        centre = [
            (sprite.alpha * at).sum() / area + 0.5 for at in (xs + sprite.left, ys + sprite.top)
        ]
        if OBJECTS[kind] in ("ball", "ring", "star"):  # the others are not symmetric
            assert centre == pytest.approx([x, y], abs=0.15)
        hole = sprite.alpha[int(y) - sprite.top, int(x) - sprite.left]
        assert hole == (OBJECTS[kind] != "ring")
        if OBJECTS[kind] == "ball":
            assert area == pytest.approx(np.pi / 4 * 40**2, rel=0.02)


def test_scenes_keep_their_promises():
    shapes, kinds = set(), set()
    for seed in range(60):
        scene = draw_scene(np.random.default_rng(seed), 64, crowd=seed % 4 == 0)
        h, w = scene.image.shape[:2]
        shapes.add((h, w))
        objects = [i for i in scene.instances if not i.crowd]
        assert scene.image.dtype == np.uint8 and scene.materials.shape == (h, w)
        assert scene.materials.max() < len(MATERIALS)
        assert 1 <= len(objects) <= 7
        assert len(scene.instances) - len(objects) == (seed % 4 == 0)
        assert sum(i.mask.astype(int) for i in scene.instances).max() == 1  # one owner a pixel
        assert all(0.5 <= i.visible <= 1 for i in objects)
        kinds |= {i.kind for i in objects}
    assert shapes == {(48, 64), (64, 64), (64, 48)}
    assert kinds == set(range(len(OBJECTS)))


def test_an_empty_scene_has_a_background_only():
    scene = draw_scene(np.random.default_rng(0), 64, empty=True)
    assert scene.instances == ()
    assert scene.semantic().min() > len(OBJECTS)
    assert scene.image.std() > 1  # a texture, not one colour


# (split, index): objects with their boxes, and the mean colour; at size 96 with seed 0
GOLDEN = {
    ("train", 0): (
        [
            ("ball", (9, 2, 40, 40)),
            ("flower", (31, 45, 31, 34)),
            ("ring", (1, 69, 16, 16)),
            ("flower", (23, 51, 14, 14)),
        ],
        (96.3, 87.2, 57.6),
    ),
    ("train", 5): (
        [("cube", (9, 22, 35, 35)), ("leaf", (34, 58, 33, 18))],
        (110.7, 109.2, 117.5),
    ),
    ("val", 2): (
        [("leaf", (16, 29, 34, 47)), ("ball", (0, 0, 39, 38)), ("star", (65, 35, 25, 24))],
        (142.7, 148.9, 133.0),
    ),
}


@pytest.mark.parametrize("key", GOLDEN, ids=str)
def test_the_scenes_of_format_1_stay_the_same(key):
    """Up to a pixel and rounding, which differ between versions of the libraries."""
    objects, colour = GOLDEN[key]
    scene = scene_at(*key, size=96, seed=0)
    assert FORMAT == 1
    assert [OBJECTS[i.kind] for i in scene.instances] == [name for name, _ in objects]
    boxes = [i.box for i in scene.instances]
    np.testing.assert_allclose(boxes, [box for _, box in objects], atol=1)
    np.testing.assert_allclose(scene.image.mean(axis=(0, 1)), colour, atol=0.5)
