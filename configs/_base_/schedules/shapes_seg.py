# The drawn segmentors have this in common: minutes on two CPU cores.
_base_ = './shapes.py'

max_iters = 840
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=420)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type='PolyLR', power=0.9, eta_min=2e-5, by_epoch=False, begin=0, end=max_iters)
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
