"""Check the data of a config: files, annotations, classes, and agreement with the model."""

from care_mm.datasets.check.config import DEFAULT_LIMIT, SPLITS, check_config

__all__ = ["DEFAULT_LIMIT", "SPLITS", "check_config"]
