# A Mask R-CNN on CARE-S0 that learns from random weights in minutes on two CPU cores: for small
# images, with a thin neck and thin heads. Configs set the number of classes.
_base_ = './maskrcnn_care.py'

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
            fc_out_channels=256),
        mask_roi_extractor=rois,
        mask_head=dict(
            num_convs=2,
            norm_cfg=norm,
            in_channels=width,
            conv_out_channels=width // 2)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5))),
    test_cfg=dict(
        rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=30)))
