_base_ = './runtime.py'
default_scope = 'mmpretrain'
custom_imports = dict(
    imports=['care_mm.models.classifier', 'care_mm.engine.summary'], allow_failed_imports=False)
default_hooks = dict(visualization=dict(type='VisualizationHook', enable=False))
visualizer = dict(
    type='UniversalVisualizer', name='visualizer', vis_backends={{_base_.vis_backends}})
