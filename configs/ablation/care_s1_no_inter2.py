# Without Inter2: the features do not interact with the memory. Stage 4 has no expansion, so it has
# 256 channels.
_base_ = '../care_s1_imagenet.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, base='s1', inter2=False)),
    head=dict(in_channels=256))
