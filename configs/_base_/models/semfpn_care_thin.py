# A Semantic FPN on CARE-S0 that learns from random weights in minutes on two CPU cores: for small
# images, with a thin neck and a thin head. Configs set the number of classes.
_base_ = './semfpn_care.py'

width = 64
norm = dict(type='BN')
model = dict(
    # Random weights train in few steps with an initialisation that keeps the variance, a large
    # layer scale, and norms on the outputs of the backbone and in the neck.
    backbone=dict(
        norm_eval=False,
        layer_scale_init_value=0.5,
        out_norm_cfg=norm,
        init_cfg=dict(
            _delete_=True,
            type='Kaiming',
            layer='Conv2d',
            mode='fan_in',
            nonlinearity='linear')),
    neck=dict(out_channels=width, norm_cfg=norm),
    decode_head=dict(
        in_channels=[width] * 4, channels=width, dropout_ratio=0.0, norm_cfg=norm))
