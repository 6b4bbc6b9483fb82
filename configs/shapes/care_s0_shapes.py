# `make demo-cls`: the ImageNet job on the drawn class folders, from random weights in minutes on
# two CPU cores. teacher_shapes.py trains its teacher; `--cfg-options model.teacher=None` trains
# without distillation.
_base_ = [
    '../_base_/models/care.py', '../_base_/datasets/shapes_cls.py',
    '../_base_/schedules/shapes.py', '../_base_/runtime_cls.py'
]

model = dict(
    data_preprocessor=dict(num_classes=len(_base_.classes)),
    # Random weights train in few steps with an initialisation that keeps the variance, and a large
    # layer scale.
    backbone=dict(
        drop_path_rate=0.0,
        layer_scale_init_value=0.5,
        init_cfg=dict(type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='linear')),
    head=dict(num_classes=len(_base_.classes), topk=(1, )),
    teacher=dict(
        type='TimmClassifier', model_name='regnety_002', num_classes=len(_base_.classes)),
    teacher_checkpoint='checkpoints/teacher_shapes.pth',
    # CutMix needs more steps than these.
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2)]))

max_epochs = 12
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=2)
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
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(enable=False, base_batch_size=32)
default_hooks = dict(logger=dict(interval=20))
