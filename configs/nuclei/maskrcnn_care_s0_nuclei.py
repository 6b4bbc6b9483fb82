# Mask R-CNN from random weights on the nuclei: many small objects of one class in an image.
_base_ = [
    '../_base_/models/maskrcnn_care_thin.py', '../_base_/datasets/nuclei.py',
    '../_base_/schedules/nuclei.py', '../_base_/runtime_det.py'
]

num_classes = len(_base_.metainfo['classes'])
model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[3])),
    roi_head=dict(
        bbox_head=dict(num_classes=num_classes), mask_head=dict(num_classes=num_classes)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=256)), rpn_proposal=dict(nms_pre=1000, max_per_img=400)),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=400), rcnn=dict(max_per_img=300)))

# The wide fully connected layer of the box head dies at the rate that suits the convolutions.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'shared_fcs': dict(lr_mult=0.2)}))
visualizer = dict(line_width=1, alpha=0.45)  # for small images
