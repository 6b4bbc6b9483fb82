# `make demo-seg`: Semantic FPN from random weights in minutes on two CPU cores.
_base_ = [
    '../_base_/models/semfpn_care_thin.py', '../_base_/datasets/shapes_seg.py',
    '../_base_/schedules/shapes_seg.py', '../_base_/runtime_seg.py'
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=len(_base_.metainfo['classes'])))
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=420))
