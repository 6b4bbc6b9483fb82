# Token mixers alone: neither Inter1 nor Inter2.
_base_ = '../care_s0_imagenet.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, base='s0', inter1=False, inter2=False)),
    head=dict(in_channels=256))
