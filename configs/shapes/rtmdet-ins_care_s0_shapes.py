# RTMDet-Ins from random weights in minutes on two CPU cores.
_base_ = [
    '../_base_/models/rtmdet-ins_care_scratch.py', '../_base_/datasets/shapes_det.py',
    '../_base_/schedules/shapes.py', '../_base_/runtime_det.py'
]
model = dict(bbox_head=dict(num_classes=len(_base_.metainfo['classes'])))

max_epochs = 7
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=max_epochs)
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
auto_scale_lr = dict(enable=False, base_batch_size=4)
visualizer = dict(line_width=1, alpha=0.45)  # for small images
default_hooks = dict(logger=dict(interval=10))
custom_hooks = [dict(type='SummaryHook', num_rated=30)]  # a report in seconds
