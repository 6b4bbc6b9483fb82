"""Predict on images and videos with the model of any config, and write the results."""
