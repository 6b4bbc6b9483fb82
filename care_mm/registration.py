"""Make ``import care_mm`` enough for every class that a config of ours names.

Classes that need mmdet or mmpretrain are registered by name and imported when they are built, so
that the import stays light.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from mmengine.registry import METRICS, MODELS, Registry

import care_mm.datasets.shapes
import care_mm.engine
import care_mm.report.summary  # noqa: F401

# Registry and name -> module that defines the class.
_ON_DEMAND: dict[tuple[Registry, str], str] = {
    (METRICS, "FastCocoMetric"): "care_mm.engine.coco_metric",
    (MODELS, "CAREClassifier"): "care_mm.models.classifier",
    (MODELS, "CAREHead"): "care_mm.models.classifier",
}
# Documented import paths of earlier versions -> the module's name today.
_MOVED = {
    "care_mm.loading": "care_mm.checkpoint",
    "care_mm.engine.speed": "care_mm.engine.hooks.speed",
    "care_mm.engine.summary": "care_mm.report.summary",
}


def _builder(module: str, name: str) -> Callable[..., Any]:
    def build(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    build.__name__ = name
    return build


for (registry, name), module in _ON_DEMAND.items():
    registry.register_module(name=name, module=_builder(module, name))
for old, new in _MOVED.items():
    sys.modules[old] = import_module(new)
