# d1 = d2: half of the features, at their published width, go to the global branch. The memory has
# the width of the global branch, so it is 1.5 times as wide as published.
_base_ = '../care_s1_imagenet.py'
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            base='s1',
            decoupling='symmetrical',
            mem_dims=(12, 24, 48, 96))),
    head=dict(in_channels=1152))
