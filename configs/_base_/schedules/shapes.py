# The drawn jobs have this in common: from random weights, in few steps, the same every time.
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='FusedAdamW', lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0))
randomness = dict(seed=0)
