# `make demo`: Mask R-CNN from random weights in minutes on two CPU cores.
_base_ = [
    '../_base_/models/maskrcnn_care_thin.py', '../_base_/datasets/shapes_det.py',
    '../_base_/schedules/shapes.py', '../_base_/runtime_det.py'
]

num_classes = len(_base_.metainfo['classes'])
model = dict(
    roi_head=dict(
        bbox_head=dict(num_classes=num_classes), mask_head=dict(num_classes=num_classes)))

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
# The wide fully connected layer of the box head dies at the rate that suits the convolutions.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'shared_fcs': dict(lr_mult=0.2)}))
auto_scale_lr = dict(enable=False, base_batch_size=4)
visualizer = dict(line_width=1, alpha=0.45)  # for small images
default_hooks = dict(logger=dict(interval=10))
custom_hooks = [dict(type='SummaryHook', num_rated=30)]  # a report in seconds
