# Nuclei in microscope images of several stainings: the training set of stage 1 of the Data Science
# Bowl 2018 with the community's fixes (CC0), converted to COCO format with one class, and split at
# random into 530 and 134 images. See docs/data.md for the layout of your own data.
data_root = 'data/nuclei/'
metainfo = dict(classes=('nucleus', ), palette=[(60, 220, 60)])
crop_size = (224, 224)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    # Most images have 256 x 256 pixels, the largest 1388 x 1040.
    dict(type='RandomResize', scale=(256, 256), ratio_range=(0.8, 1.6), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    # Crops cut objects to slivers, of which a mask of one pixel may be left.
    dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2), by_mask=True),
    dict(type='RandomFlip', prob=[0.3, 0.3], direction=['horizontal', 'vertical']),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 320), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]

dataset = dict(type='CocoDataset', data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        ann_file='instances_train.json',
        data_prefix=dict(img='images/'),
        pipeline=train_pipeline,
        **dataset))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        ann_file='instances_val.json',
        data_prefix=dict(img='images/'),
        test_mode=True,
        pipeline=test_pipeline,
        **dataset))
test_dataloader = val_dataloader

val_evaluator = dict(
    type='DenseCocoMetric',  # images have up to 250 nuclei, COCO's mAP counts 100
    ann_file=data_root + 'instances_val.json',
    metric=['bbox', 'segm'])
test_evaluator = val_evaluator
