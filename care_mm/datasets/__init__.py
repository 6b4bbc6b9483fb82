"""Data sets that come with the package; see :mod:`care_mm.datasets.shapes`."""
