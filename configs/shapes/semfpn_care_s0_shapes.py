# `make demo-seg`: Semantic FPN from random weights in minutes on two CPU cores. Compared with the
# ADE20K job, the images are small, and the neck and the head are thin.
_base_ = [
    '../_base_/models/semfpn_care.py', '../_base_/datasets/shapes_seg.py',
    '../_base_/schedules/shapes.py', '../_base_/runtime_seg.py'
]

width = 64
norm = dict(type='BN')
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
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
        in_channels=[width] * 4,
        channels=width,
        dropout_ratio=0.0,
        num_classes=len(_base_.metainfo['classes']),
        norm_cfg=norm))

max_iters = 560
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=280)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type='PolyLR', power=0.9, eta_min=2e-5, by_epoch=False, begin=0, end=max_iters)
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=280))
