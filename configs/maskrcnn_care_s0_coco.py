_base_ = [
    './_base_/models/maskrcnn_care.py', './_base_/datasets/coco_instance.py',
    './_base_/schedules/det_1x.py', './_base_/runtime_det.py'
]
