_base_ = './care_s0_imagenet.py'
model = dict(backbone=dict(arch='s1'))
