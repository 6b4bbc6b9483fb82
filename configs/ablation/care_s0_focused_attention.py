# FLatten's focused linear attention in the global branch of stages 3 and 4.
_base_ = '../care_s0_imagenet.py'
model = dict(backbone=dict(arch=dict(_delete_=True, base='s0', attention='focused')))
