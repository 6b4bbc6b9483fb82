# All features pass through the convolutions, then all through the global branch, as in MLLA.
_base_ = '../care_s1_imagenet.py'
model = dict(backbone=dict(arch=dict(_delete_=True, base='s1', decoupling='stacked')))
