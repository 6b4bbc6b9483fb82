# Without Inter1: the features do not interact with each other before Inter2.
_base_ = '../care_s1_imagenet.py'
model = dict(backbone=dict(arch=dict(_delete_=True, base='s1', inter1=False)))
