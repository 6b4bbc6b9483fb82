"""The model, leaf to root: ``arch``, ``fold``, ``layers``, ``pretrained``, ``backbone``, ``head``.

``classifier`` needs mmpretrain.
"""
