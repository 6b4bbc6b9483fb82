"""The model, leaf to root: ``fold``, ``layers``, ``arch``, ``backbone``.

``classifier`` needs mmpretrain.
"""
