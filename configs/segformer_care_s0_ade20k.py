_base_ = [
    './_base_/models/segformer_care.py', './_base_/datasets/ade20k.py',
    './_base_/schedules/seg_160k.py', './_base_/runtime_seg.py'
]
train_dataloader = dict(batch_size=2)
default_hooks = dict(checkpoint=dict(interval=16000))
