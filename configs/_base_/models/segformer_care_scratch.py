# The head of segformer_care.py on the backbone of semfpn_care_thin.py, which learns from random
# weights in minutes on two CPU cores. Configs set the number of classes.
_base_ = './semfpn_care_thin.py'

model = dict(
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='SegformerHead',
        in_channels=[32, 64, 128, 1024],
        in_index=[0, 1, 2, 3],
        channels=128,
        dropout_ratio=0.0,
        num_classes=150,
        norm_cfg=_base_.norm,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)))
