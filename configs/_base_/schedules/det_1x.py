# 1x: 12 epochs with 16 images per step (8 GPUs x 2), which are 88,000 iterations on COCO
# (12 x 117,266 / 16; images without objects are filtered). On another number of GPUs add
# --auto-scale-lr.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1)
]
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.05))
auto_scale_lr = dict(enable=False, base_batch_size=16)
