# RTMDet-Ins from random weights on the nuclei: many small objects of one class in an image.
_base_ = [
    '../_base_/models/rtmdet-ins_care_scratch.py', '../_base_/datasets/nuclei.py',
    '../_base_/schedules/nuclei.py', '../_base_/runtime_det.py'
]
model = dict(
    bbox_head=dict(num_classes=len(_base_.metainfo['classes'])), test_cfg=dict(max_per_img=300))
visualizer = dict(line_width=1, alpha=0.45)  # for small images
