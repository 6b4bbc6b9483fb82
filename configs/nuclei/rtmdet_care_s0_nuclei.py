# RTMDet from random weights on the nuclei: many small objects of one class in an image.
_base_ = [
    '../_base_/models/rtmdet_care_scratch.py', '../_base_/datasets/nuclei.py',
    '../_base_/schedules/nuclei.py', '../_base_/runtime_det.py'
]
model = dict(
    bbox_head=dict(num_classes=len(_base_.metainfo['classes'])), test_cfg=dict(max_per_img=300))

# The box detector's assigner refuses masks.
load, _, resize, crop, _, *rest = _base_.train_pipeline
boxes = dict(type='LoadAnnotations', with_bbox=True)
large = dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2))
train_dataloader = dict(
    dataset=dict(pipeline=[load, boxes, resize, crop, large, *rest]))
val_evaluator = dict(metric='bbox')
test_evaluator = dict(metric='bbox')
visualizer = dict(line_width=1, alpha=0.45)  # for small images
