# Settings of all jobs; the runtime file of a task adds the scope and the visualizer.
custom_imports = dict(imports=['care_mm'], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='AtomicCheckpointHook', interval=1, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # docs/reliability.md describes these hooks.
    finite=dict(type='FiniteGuardHook'),
    data=dict(type='DataGuardHook'),
    randomness=dict(type='PlacedRandomnessHook'),
    weights=dict(type='WeightsGuardHook'),
    resume=dict(type='ResumeGuardHook'),
    interrupt=dict(type='InterruptHook'))

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))

vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
custom_hooks = [dict(type='SummaryHook')]
log_level = 'INFO'
load_from = None
resume = False
