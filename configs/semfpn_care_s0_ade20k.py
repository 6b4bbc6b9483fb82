_base_ = [
    './_base_/models/semfpn_care.py', './_base_/datasets/ade20k.py',
    './_base_/schedules/seg_40k.py', './_base_/runtime_seg.py'
]
