"""FLatten: focused linear attention in PVT and in Swin.

Source: FLatten Transformer: Vision Transformer using Focused Linear Attention, ICCV 2023
(arXiv 2308.00442), and the authors' released models.
"""

from __future__ import annotations

from typing import ClassVar

from mmengine.registry import MODELS

from care_mm.peers.key_table import KeyTable
from care_mm.peers.layers import layer_norm
from care_mm.peers.pvt import PVT, PVTArch, pvt_names
from care_mm.peers.swin import Swin, swin_names
from care_mm.peers.token_attention import FocusedAttention


@MODELS.register_module()
class FLattenPVT(PVT):
    """PVT with focused linear attention in all stages (top-1 77.8 / 81.7, published).

    Arguments are those of :class:`care_mm.peers.pvt.PVT`; ``arch`` is ``'t'`` or ``'s'``. The
    authors use a drop path rate of 0.1.
    """

    archs: ClassVar = {"t": PVTArch((2, 2, 2, 2)), "s": PVTArch((3, 4, 6, 3))}
    key_table: ClassVar = KeyTable("FLatten-PVT", pvt_names(norm="head.norm"))
    attention = FocusedAttention
    embed_norm = layer_norm(1e-5)
    block_norm = layer_norm(1e-6)


@MODELS.register_module()
class FLattenSwin(Swin):
    """Swin with focused linear attention in stages 1 and 2 (top-1 82.1 / 83.5, published).

    Arguments are those of :class:`care_mm.peers.swin.Swin`; ``arch`` is ``'t'`` or ``'s'``.
    """

    key_table: ClassVar = KeyTable("FLatten-Swin", swin_names())
    attention = FocusedAttention
    norm_layer = layer_norm(1e-5)
