# The teacher of care_s0_shapes.py: a small convolutional network of timm's, trained on the labels.
_base_ = './care_s0_shapes.py'
model = dict(
    _delete_=True,
    type='TimmClassifier',
    model_name='regnety_002',
    num_classes=6,
    data_preprocessor=dict(
        num_classes=6,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'))

max_epochs = 8
train_cfg = dict(max_epochs=max_epochs)
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
