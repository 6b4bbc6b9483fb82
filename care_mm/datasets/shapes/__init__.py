"""The embedded data set: drawn on first use, in the layouts of COCO, ADE20K and ImageNet."""

from care_mm.datasets.shapes.backgrounds import MATERIALS
from care_mm.datasets.shapes.ensure import build_shapes, ensure_shapes
from care_mm.datasets.shapes.layouts import (
    CROP_SIDE,
    FORMAT,
    MIN_CROP_OBJECT,
    MIN_CROP_VISIBLE,
    PALETTE,
    SEG_CLASSES,
    Settings,
    scene_at,
)
from care_mm.datasets.shapes.objects import OBJECTS
from care_mm.datasets.shapes.scenes import Instance, Scene, draw_scene

__all__ = [
    "CROP_SIDE",
    "FORMAT",
    "MATERIALS",
    "MIN_CROP_OBJECT",
    "MIN_CROP_VISIBLE",
    "OBJECTS",
    "PALETTE",
    "SEG_CLASSES",
    "Instance",
    "Scene",
    "Settings",
    "build_shapes",
    "draw_scene",
    "ensure_shapes",
    "scene_at",
]
