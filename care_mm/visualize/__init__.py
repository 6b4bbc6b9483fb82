"""Show how a model sees one image: energy of the features, linear attention, Grad-CAM."""

from care_mm.visualize.images import SHEET, write_view
from care_mm.visualize.view import View, look

__all__ = ["SHEET", "View", "look", "write_view"]
