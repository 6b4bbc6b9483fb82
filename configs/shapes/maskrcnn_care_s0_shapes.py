# `make demo`: Mask R-CNN from random weights in minutes on two CPU cores. Compared with the COCO
# job, the images are small, and the neck and the heads are thin.
_base_ = [
    '../_base_/models/maskrcnn_care.py', '../_base_/datasets/shapes_det.py',
    '../_base_/schedules/shapes.py', '../_base_/runtime_det.py'
]

num_classes = len(_base_.metainfo['classes'])
width = 64
norm = dict(type='BN')
rois = dict(out_channels=width, finest_scale=20)
model = dict(
    # Random weights train in few steps with an initialisation that keeps the variance, a large
    # layer scale, and norms on the outputs of the backbone, in the neck and in the heads.
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
    neck=dict(out_channels=width, num_outs=4, norm_cfg=norm),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=rois,
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=2,
            conv_out_channels=width,
            num_shared_fcs=1,
            norm_cfg=norm,
            in_channels=width,
            fc_out_channels=256,
            num_classes=num_classes),
        mask_roi_extractor=rois,
        mask_head=dict(
            num_convs=2,
            norm_cfg=norm,
            in_channels=width,
            conv_out_channels=width // 2,
            num_classes=num_classes)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5))),
    test_cfg=dict(
        rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=30)))

max_epochs = 4
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(
        type='LinearLR',
        start_factor=1.0,
        end_factor=0.01,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True)
]
# The wide fully connected layer of the box head dies at the rate that suits the convolutions.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'shared_fcs': dict(lr_mult=0.2)}))
auto_scale_lr = dict(enable=False, base_batch_size=4)
visualizer = dict(line_width=1, alpha=0.45)  # for small images
default_hooks = dict(logger=dict(interval=10))
custom_hooks = [dict(type='SummaryHook', num_rated=30)]  # a report in seconds
