# The drawn ADE20K data set, created on first use: maps of six objects and five textures.
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
    # One scale only: textures at their original size are easier to learn in few steps.
    dict(type='Resize', scale=(192, 192), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=[0.25, 0.25], direction=['horizontal', 'vertical']),
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
