"""Models for other runtimes.

``graphs`` and ``detector`` define what is exported, ``trace`` traces it, and one file for each
runtime writes and runs it behind the base class in ``target``. ``verify`` compares a file with its
model, ``stand_in`` puts it in the model's place, and ``pipeline`` does a whole export.

The runtimes are optional: ``pip install care-mm[export]``.
"""
