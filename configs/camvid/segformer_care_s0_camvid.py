# The light segmentor from random weights on CamVid's driving scenes.
_base_ = [
    '../_base_/models/segformer_care_scratch.py', '../_base_/datasets/camvid.py',
    '../_base_/schedules/camvid.py', '../_base_/runtime_seg.py'
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=len(_base_.metainfo['classes'])))
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=_base_.max_iters))
