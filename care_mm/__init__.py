"""CARE Transformer backbones for OpenMMLab.

``import care_mm`` registers ``CARETransformer`` in ``mmengine.registry.MODELS``, which serves every
scope (mmdet, mmseg, mmpretrain, ...), and with it the hooks, metrics and drawn data that our
configs name. It needs torch, mmengine and mmcv only.
"""

from care_mm import environment

environment.check()  # before anything is imported that could break

from care_mm import registration  # noqa: E402, F401
from care_mm.environment import __version__  # noqa: E402
from care_mm.models.backbone import CARETransformer  # noqa: E402

__all__ = ["CARETransformer", "__version__"]
