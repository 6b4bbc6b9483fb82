# The teacher of care_s0_shapes.py: a small convolutional network of timm, trained on the labels.
_base_ = './care_s0_shapes.py'
model = dict(
    _delete_=True,
    type='TimmClassifier',
    model_name='regnety_002',
    num_classes=len(_base_.classes),
    data_preprocessor=_base_.model.data_preprocessor,
    loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'))

max_epochs = 10
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1]['end'] = max_epochs
