"""Write a config for somebody's data: find them, measure them, decide, and try the result."""

from care_mm.new_config.command import MODELS, new_config

__all__ = ["MODELS", "new_config"]
