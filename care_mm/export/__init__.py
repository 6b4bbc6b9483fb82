"""Models for other runtimes: ``graphs`` and ``detector`` say what is exported, one file for each
runtime writes and runs it, ``verify`` compares, ``runtime`` puts it in a model's place.

The runtimes are optional: ``pip install care-mm[export]``.
"""
