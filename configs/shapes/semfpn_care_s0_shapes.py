# `make demo-seg`: Semantic FPN from random weights in minutes on two CPU cores. Next to the ADE20K
# job, the pictures are small and the neck and head thin.
_base_ = ['../_base_/models/semfpn_care.py', '../_base_/runtime_seg.py']

metainfo = dict(
    classes=('ball', 'cube', 'flower', 'leaf', 'ring', 'star', 'cloth', 'grass', 'sand', 'tile',
             'wood'),
    palette=[[230, 60, 60], [240, 150, 40], [120, 200, 60], [250, 220, 60], [60, 120, 230],
             [170, 80, 210], [230, 180, 200], [40, 110, 50], [220, 200, 150], [130, 170, 190],
             [140, 90, 50]])
crop_size = (128, 128)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    # No change of scale: in so few steps the textures are learnt better as large as they are.
    dict(type='Resize', scale=(192, 192), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(192, 192), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs')
]
dataset = dict(
    type='Shapes',
    of='BaseSegDataset',
    data_root='data/shapes/ade/ADEChallengeData2016',
    img_suffix='.jpg',
    seg_map_suffix='.png',
    reduce_zero_label=True,
    metainfo=metainfo)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
        **dataset))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
        **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

width = 64
norm = dict(type='BN')
model = dict(
    data_preprocessor=dict(size=crop_size),
    # From random weights in few steps: variance-keeping initialisation, a large layer scale, and
    # norms where features leave the backbone and in the neck.
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
        num_classes=len(metainfo['classes']),
        norm_cfg=norm))

max_iters = 560
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=280)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type='PolyLR', power=0.9, eta_min=2e-5, by_epoch=False, begin=0, end=max_iters)
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='FusedAdamW', lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0))
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=280))
randomness = dict(seed=0)
