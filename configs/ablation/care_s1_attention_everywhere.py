# Linear attention in stages 1 and 2 as well, with two heads each as in stage 3.
_base_ = '../care_s1_imagenet.py'
model = dict(backbone=dict(arch=dict(_delete_=True, base='s1', attn_head_dims=(4, 8, 16, 32))))
