"""Make ``import care_mm`` register every class that our configs name.

Classes that need mmdet or mmpretrain are registered as functions that import the class when it is
built, so that ``import care_mm`` stays light.
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
from care_mm.environment import DISTRIBUTIONS
from care_mm.errors import InputError

# (registry, name) -> module that defines the class.
_ON_DEMAND: dict[tuple[Registry, str], str] = {
    (METRICS, "DenseCocoMetric"): "care_mm.engine.coco_metric",
    (METRICS, "FastCocoMetric"): "care_mm.engine.coco_metric",
    (MODELS, "CAREClassifier"): "care_mm.models.classifier",
    (MODELS, "CAREHead"): "care_mm.models.classifier",
    (MODELS, "EMOHead"): "care_mm.peers.mobile_heads",
    (MODELS, "FLattenPVTHead"): "care_mm.peers.heads",
    (MODELS, "FLattenSwinHead"): "care_mm.peers.heads",
    (MODELS, "MLLAHead"): "care_mm.peers.heads",
    (MODELS, "MobileViGHead"): "care_mm.peers.mobile_heads",
    (MODELS, "SLABPVTHead"): "care_mm.peers.heads",
    (MODELS, "SLABSwinHead"): "care_mm.peers.heads",
}
# Documented import paths of earlier versions -> today's module.
_MOVED = {
    "care_mm.loading": "care_mm.checkpoint",
    "care_mm.engine.speed": "care_mm.engine.hooks.speed",
    "care_mm.engine.summary": "care_mm.report.summary",
}


def _builder(module: str, name: str) -> Callable[..., Any]:
    """Return a function that imports the class and builds an instance."""

    def build(*args: Any, **kwargs: Any) -> Any:
        try:
            cls = getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            package = (error.name or str(error)).split(".")[0]
            options = " or ".join(DISTRIBUTIONS.get(package, (package,)))
            raise InputError(f"{name} needs {package}: pip install {options}") from error
        return cls(*args, **kwargs)

    build.__name__ = name
    return build


def _register_in_mmpretrain(registry: Registry) -> None:
    """Register the classifier and all heads in mmpretrain's own registry as well.

    Within the scope of mmpretrain, ``'mmpretrain.CAREHead'`` is looked up there only.
    """
    if registry.scope == "mmpretrain":
        for _, name in (entry for entry in _ON_DEMAND if entry[0] is MODELS):
            registry.register_module(name=name, module=MODELS.get(name))


def _add_child(registry: Registry) -> None:
    """Replace ``MODELS._add_child``: mmpretrain may be imported after care_mm.

    Tested on mmengine 0.10.7 and onedl-mmengine 0.10.12.
    """
    Registry._add_child(MODELS, registry)
    _register_in_mmpretrain(registry)


for (registry, name), module in _ON_DEMAND.items():
    registry.register_module(name=name, module=_builder(module, name))
for child in MODELS.children.values():
    _register_in_mmpretrain(child)
MODELS._add_child = _add_child
for old, new in _MOVED.items():
    sys.modules[old] = import_module(new)
    parent, _, child_name = old.rpartition(".")
    setattr(sys.modules[parent], child_name, sys.modules[old])
