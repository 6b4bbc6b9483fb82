_base_ = './semfpn_care_s0_ade20k.py'
model = dict(
    backbone=dict(
        arch='s2',
        drop_path_rate=0.1,
        init_cfg=dict(checkpoint='checkpoints/care_s2_in1k.pth')),
    neck=dict(in_channels=[32, 64, 192, 1536]))
