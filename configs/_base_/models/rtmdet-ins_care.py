# RTMDet-Ins on CARE-S0: RTMDet's neck, and a head with masks. S1 changes `backbone.arch` only.
#
# mmdet's head has dense convolutions only. With 64 channels and one convolution in a branch, the
# neck and the head cost 41 % of the backbone (2.39 and 5.87 GMACs at 640 x 640). Two in a branch,
# as in RTMDet-Ins-tiny, would cost 57 % (3.32 GMACs).
# `python tools/complexity.py configs/rtmdet-ins_care_s0_coco.py` computes the figures.
_base_ = './rtmdet_care.py'

width = 64
model = dict(
    data_preprocessor=dict(pad_mask=True),
    neck=[
        dict(_base_.model.neck[0], out_channels=width),
        dict(_base_.model.neck[1], in_channels=[width, width, width], out_channels=width)
    ],
    bbox_head=dict(
        _delete_=True,
        type='RTMDetInsSepBNHead',
        num_classes=80,
        in_channels=width,
        feat_channels=width,
        stacked_convs=1,
        share_conv=True,
        pred_kernel_size=1,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        loss_mask=dict(type='DiceLoss', loss_weight=2.0, eps=5e-6, reduction='mean'),
        norm_cfg=_base_.norm,
        act_cfg=_base_.act),
    test_cfg=dict(
        nms_pre=1000,
        score_thr=0.05,
        nms=dict(iou_threshold=0.6),
        max_per_img=100,
        mask_thr_binary=0.5))
