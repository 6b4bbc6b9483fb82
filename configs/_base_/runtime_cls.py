_base_ = './runtime.py'
default_scope = 'mmpretrain'
default_hooks = dict(visualization=dict(type='VisualizationHook', enable=False))
visualizer = dict(
    type='UniversalVisualizer', name='visualizer', vis_backends=_base_.vis_backends)
