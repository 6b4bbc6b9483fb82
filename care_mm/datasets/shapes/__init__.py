"""The embedded data set: drawn on first use, in the layouts of COCO, ADE20K and ImageNet."""

from care_mm.datasets.shapes.layouts import Settings, ensure_shapes

__all__ = ["Settings", "ensure_shapes"]
