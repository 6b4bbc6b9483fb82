"""Latency, throughput and memory of our models and their peers, measured in one run.

``models`` builds the models, ``backends`` prepares them to run, ``worker`` times one of them in its
own process, ``measure`` lets the workers take turns, ``tables`` formats the results, and
``operators`` divides the time of a model by kind of operator.
"""
