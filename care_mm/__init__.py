"""CARE Transformer backbones for OpenMMLab.

``import care_mm`` registers ``CARETransformer`` in ``mmengine.registry.MODELS``, which serves every
scope (mmdet, mmseg, mmpretrain, ...). It needs torch, mmengine and mmcv only.
"""

from care_mm import versions

versions.check()  # before anything that could break is imported

from care_mm.models.backbone import CARETransformer  # noqa: E402
from care_mm.version import __version__  # noqa: E402

__all__ = ["CARETransformer", "__version__"]
