_base_ = './runtime.py'
custom_imports = dict(
    imports=['care_mm', 'care_mm.engine.summary', 'care_mm.engine.coco_metric'],
    allow_failed_imports=False)
default_scope = 'mmdet'
default_hooks = dict(visualization=dict(type='DetVisualizationHook'))
visualizer = dict(
    type='DetLocalVisualizer', name='visualizer', vis_backends={{_base_.vis_backends}})
