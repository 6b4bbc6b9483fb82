# RTMDet on CARE-S0 that learns from random weights in minutes on two CPU cores, for small images.
_base_ = './rtmdet_care.py'

levels = 4  # from stride 4
model = dict(
    # Random weights train in few steps with an initialisation that keeps the variance, a large
    # layer scale, and norms on the outputs of the backbone.
    backbone=dict(
        out_indices=(0, 1, 2, 3),
        layer_scale_init_value=0.5,
        out_norm_cfg=_base_.norm,
        init_cfg=dict(
            _delete_=True,
            type='Kaiming',
            layer='Conv2d',
            mode='fan_in',
            nonlinearity='linear')),
    neck=[
        dict(_base_.model.neck[0], in_channels=[32, 64, 128, 1024], num_outs=levels),
        dict(_base_.model.neck[1], in_channels=[_base_.width] * levels)
    ],
    # Boxes start with two strides, not with none.
    bbox_head=dict(exp_on_reg=True, anchor_generator=dict(strides=[4, 8, 16, 32])),
    test_cfg=dict(nms_pre=1000, score_thr=0.01, max_per_img=100))
