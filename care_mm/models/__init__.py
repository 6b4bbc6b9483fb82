"""The model, leaf to root.

``arch``, ``fold``, ``precision``, ``linear_attention``, ``attention``, ``layers``, ``pretrained``,
``staged``, ``backbone``, ``head``; ``classifier`` needs mmpretrain.
"""
