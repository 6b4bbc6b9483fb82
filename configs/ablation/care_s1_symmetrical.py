# d1 = d2 at the published width of the features: half of them to the global branch. The memory
# has the global branch's width, here 1.5 times the published one.
_base_ = '../care_s1_imagenet.py'
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            base='s1',
            decoupling='symmetrical',
            mem_dims=(12, 24, 48, 96))),
    head=dict(in_channels=1152))
