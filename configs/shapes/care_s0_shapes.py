# `make demo-cls`: the ImageNet job on the drawn class folders, from random weights in minutes on
# two CPU cores. Its teacher is trained first, by teacher_shapes.py; `--cfg-options
# model.teacher=None` does without.
_base_ = ['../_base_/models/care.py', '../_base_/runtime_cls.py']

classes = ('ball', 'cube', 'flower', 'leaf', 'ring', 'star')
size = 64  # the drawings are 96
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=size, crop_ratio_range=(0.4, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size),
    dict(type='PackInputs')
]
dataset = dict(
    type='Shapes',
    of='CustomDataset',
    data_root='data/shapes/imagenet',
    metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(data_prefix='train', pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(data_prefix='val', pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator

model = dict(
    data_preprocessor=dict(num_classes=len(classes)),
    # From random weights in few steps: variance-keeping initialisation and a large layer scale.
    backbone=dict(
        drop_path_rate=0.0,
        layer_scale_init_value=0.5,
        init_cfg=dict(type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='linear')),
    head=dict(num_classes=len(classes), topk=(1, )),
    teacher=dict(type='TimmClassifier', model_name='regnety_002', num_classes=len(classes)),
    teacher_checkpoint='checkpoints/teacher_shapes.pth',
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2), dict(type='CutMix', alpha=1.0)]))

max_epochs = 6
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(
        type='CosineAnnealingLR',
        eta_min=2e-5,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True)
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='FusedAdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(enable=False, base_batch_size=32)
default_hooks = dict(logger=dict(interval=20))
randomness = dict(seed=0)
