"""Draw truth and predictions so that objects stay visible, with the visualizers of MM."""

from care_mm.drawing.labels import Label, place_labels, write_labels
from care_mm.drawing.scenes import draw_class_map, draw_instances
from care_mm.drawing.visualizer import MAX_PIXELS, clarify

__all__ = [
    "MAX_PIXELS",
    "Label",
    "clarify",
    "draw_class_map",
    "draw_instances",
    "place_labels",
    "write_labels",
]
