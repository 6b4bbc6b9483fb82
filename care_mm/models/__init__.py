"""The model, leaf to root.

``arch``, ``fold``, ``precision``, ``layers``, ``pretrained``, ``staged``, ``backbone``, ``head``;
``classifier`` needs mmpretrain.
"""
