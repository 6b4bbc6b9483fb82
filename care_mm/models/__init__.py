"""The model, leaf to root.

``arch``, ``fold``, ``layers``, ``pretrained``, ``staged``, ``backbone``, ``head``; ``classifier``
needs mmpretrain.
"""
