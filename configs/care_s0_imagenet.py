# The authors' recipe. `--cfg-options model.teacher=None` trains without distillation.
_base_ = [
    './_base_/models/care.py', './_base_/datasets/imagenet_224.py',
    './_base_/schedules/imagenet_300e.py', './_base_/runtime_cls.py'
]
model = dict(
    # RegNetY-16GF with DeiT's weights, which timm downloads. To load a file instead, set
    # `pretrained=False` here and `teacher_checkpoint='...'` next to `teacher`.
    teacher=dict(type='TimmClassifier', model_name='regnety_160.deit_in1k', pretrained=True))
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
