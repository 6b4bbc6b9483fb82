"""The model, leaf to root: ``fold``, ``layers``, ``arch``, ``backbone``, ``head``.

``classifier`` needs mmpretrain.
"""
