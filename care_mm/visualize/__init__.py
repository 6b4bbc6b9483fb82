"""What a model looks at in one picture: energy of the features, linear attention, Grad-CAM."""

from care_mm.visualize.look import View, look
from care_mm.visualize.pictures import write_view

__all__ = ["View", "look", "write_view"]
