_base_ = [
    './_base_/models/rtmdet-ins_care.py', './_base_/datasets/coco_instance_640.py',
    './_base_/schedules/rtmdet_300e.py', './_base_/runtime_det.py'
]
default_hooks = dict(checkpoint=dict(interval=10))
custom_hooks = [
    _base_.ema,
    dict(
        type='PipelineSwitchHook',
        switch_epoch=_base_.max_epochs - _base_.stage2_epochs,
        switch_pipeline=_base_.train_pipeline_stage2),
    dict(type='SummaryHook')
]
