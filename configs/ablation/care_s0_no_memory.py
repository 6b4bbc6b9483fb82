# Without the memory: Inter2 gets only the features.
_base_ = '../care_s0_imagenet.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, base='s0', memory=False)),
    head=dict(in_channels=768))
