# Softmax attention, of quadratic cost, in the global branch of stages 3 and 4.
_base_ = '../care_s1_imagenet.py'
model = dict(backbone=dict(arch=dict(_delete_=True, base='s1', attention='softmax')))
