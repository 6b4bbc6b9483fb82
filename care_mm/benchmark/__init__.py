"""Latency, throughput and memory of our models and their peers, side by side in one run.

``subjects`` builds the models, ``backends`` gets them to run, ``worker`` times one of them in a
process of its own, ``run`` has the workers take turns, ``report`` writes what came out.
"""
