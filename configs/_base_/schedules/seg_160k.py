# SegFormer's schedule: 160,000 iterations with 16 images per step (8 GPUs x 2), which are 127
# epochs of ADE20K (16 x 160,000 / 20,210). On another number of GPUs add --auto-scale-lr.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000)
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={'norm': dict(decay_mult=0.0), 'head': dict(lr_mult=10.0)}))
auto_scale_lr = dict(enable=False, base_batch_size=16)
