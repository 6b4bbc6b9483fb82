# Without Inter1 and Inter2: only the token mixers.
_base_ = '../care_s0_imagenet.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, base='s0', inter1=False, inter2=False)),
    head=dict(in_channels=256))
