# `make demo`: from random weights to a detector in minutes on two CPU cores. Next to the COCO job,
# the pictures are small and the neck and heads thin.
_base_ = ['../_base_/models/maskrcnn_care.py', '../_base_/runtime_det.py']

data_root = 'data/shapes/coco/'
metainfo = dict(
    classes=('ball', 'cube', 'flower', 'leaf', 'ring', 'star'),
    palette=[(255, 90, 90), (90, 160, 255), (255, 170, 30), (60, 220, 60), (0, 230, 230),
             (255, 80, 255)])
size = (128, 128)  # the drawings are 192
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=size, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]
dataset = dict(
    type='Shapes',
    of='CocoDataset',
    data_root=data_root,
    metainfo=metainfo)
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        indices=540,  # of 600: a tenth less time
        pipeline=train_pipeline,
        **dataset))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
        **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric',
    ann_file=data_root + 'annotations/instances_val2017.json',
    metric=['bbox', 'segm'])
test_evaluator = val_evaluator

num_classes = len(metainfo['classes'])
width = 64
norm = dict(type='BN')
rois = dict(out_channels=width, finest_scale=20)
model = dict(
    # From random weights in few steps: variance-keeping initialisation, a large layer scale, and
    # norms where features leave the backbone, in the neck and in the heads.
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
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
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
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='FusedAdamW', lr=2e-3, weight_decay=0.05),
    # The box head's wide fully connected layer dies at the rate that suits the convolutions.
    paramwise_cfg=dict(custom_keys={'shared_fcs': dict(lr_mult=0.2)}),
    clip_grad=dict(max_norm=10.0))
auto_scale_lr = dict(enable=False, base_batch_size=4)
visualizer = dict(line_width=1, alpha=0.45)  # small pictures
default_hooks = dict(logger=dict(interval=10))
custom_hooks = [dict(type='SummaryHook', num_rated=30)]  # a report in seconds
randomness = dict(seed=0)
