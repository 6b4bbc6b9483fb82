"""SLAB: simplified linear attention and progressive re-parameterised batch norm in PVT and Swin.

Source: SLAB: Efficient Transformers with Simplified Linear Attention and Progressive
Re-parameterized Batch Normalization, ICML 2024 (arXiv 2405.11582), and the authors' released
models.
"""

from __future__ import annotations

from typing import ClassVar

from mmengine.registry import MODELS

from care_mm.peers.key_table import KeyTable
from care_mm.peers.prep_bn import PRepBN
from care_mm.peers.pvt import PVT, PVTArch, pvt_names
from care_mm.peers.swin import Swin, swin_names
from care_mm.peers.token_attention import SimplifiedAttention


@MODELS.register_module()
class SLABPVT(PVT):
    """PVT with simplified linear attention and PRepBN in all stages (top-1 76.5, published).

    Arguments are those of :class:`care_mm.peers.pvt.PVT`; ``arch`` is ``'t'``. Each norm mixes a
    layer norm and a batch norm in training, see :class:`care_mm.peers.prep_bn.PRepBN`.
    """

    archs: ClassVar = {"t": PVTArch((2, 2, 2, 2))}
    key_table: ClassVar = KeyTable("SLAB-PVT", pvt_names())
    attention = SimplifiedAttention
    embed_norm = block_norm = PRepBN.layer(eps=1e-6, total_step=300_000)


@MODELS.register_module()
class SLABSwin(Swin):
    """Swin with simplified linear attention in stages 1 and 2, and PRepBN (top-1 81.8 / 83.6).

    Arguments are those of :class:`care_mm.peers.swin.Swin`; ``arch`` is ``'t'`` or ``'s'``. The
    top-1 is published. The authors keep the batch norms in evaluation mode when they train
    detectors: ``norm_eval=True``.
    """

    key_table: ClassVar = KeyTable("SLAB-Swin", swin_names())
    attention = SimplifiedAttention
    norm_layer = PRepBN.layer(eps=1e-5, total_step=60_000)
