# RTMDet on CARE-S0. S1 changes `backbone.arch` only.
#
# The neck and the head cost 17 % of the backbone (0.99 and 5.87 GMACs at 640 x 640):
# - All levels are mapped to 96 channels first. A PAFPN is as wide inside as its inputs, and stage 4
#   has 1024 channels: without the mapping, the model has 7.49 GMACs instead of 6.86 and 1.9 million
#   more parameters. `expand_last=False` also reduces the channels (to 256, 6.85 GMACs), but then
#   three tensors of the last block have no ImageNet weights.
# - The convolutions are depthwise-separable. With dense ones in the neck, the model has 7.80 GMACs.
# - The head is as wide as that of RTMDet-tiny.
# `python tools/complexity.py configs/rtmdet_care_s0_coco.py` computes the figures.
width = 96
norm = dict(type='BN')
act = dict(type='SiLU', inplace=True)
model = dict(
    type='RTMDet',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(
        type='CARETransformer',
        arch='s0',
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/care_s0_in1k.pth')),
    neck=[
        dict(
            type='ChannelMapper',
            in_channels=[64, 128, 1024],
            out_channels=width,
            kernel_size=1,
            num_outs=3,
            norm_cfg=norm,
            act_cfg=act),
        dict(
            type='CSPNeXtPAFPN',
            in_channels=[width, width, width],
            out_channels=width,
            num_csp_blocks=1,
            expand_ratio=0.5,
            use_depthwise=True,
            norm_cfg=norm,
            act_cfg=act)
    ],
    bbox_head=dict(
        type='RTMDetSepBNHead',
        num_classes=80,
        in_channels=width,
        feat_channels=width,
        stacked_convs=2,
        use_depthwise=True,
        share_conv=False,  # mmdet shares dense convolutions only
        with_objectness=False,
        exp_on_reg=False,
        pred_kernel_size=1,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        norm_cfg=norm,
        act_cfg=act),
    train_cfg=dict(
        assigner=dict(type='DynamicSoftLabelAssigner', topk=13),
        allowed_border=-1,
        pos_weight=-1,
        debug=False),
    test_cfg=dict(
        nms_pre=30000,
        min_bbox_size=0,
        score_thr=0.001,
        nms=dict(type='nms', iou_threshold=0.65),
        max_per_img=300))
