# SegFormer's head on CARE-S0, without a neck. Other sizes change `backbone.arch`; S2 also
# `decode_head.in_channels`.
#
# With 128 channels, the head costs 41 % of the backbone (5.34 GMACs at 512 x 512, of which the
# backbone has 3.75). A Semantic FPN of equal cost has about 50 channels. `expand_last=False` costs
# more (5.38 GMACs): the projection in stage 4 is larger than what the head saves, and ImageNet
# weights do not cover it.
_base_ = './semfpn_care.py'
model = dict(
    backbone=dict(drop_path_rate=0.1),  # as SegFormer's
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='SegformerHead',
        in_channels=[32, 64, 128, 1024],
        in_index=[0, 1, 2, 3],
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)))
