"""Check the data of a config: files, annotations, classes, and agreement with the model.

:func:`check_config` is the whole check, as ``tools/check_data.py`` runs it. Training and testing
call :func:`refuse_bad_annotations` before they build anything: it runs the part that reads
annotations and settings, in seconds, and opens no image. :func:`annotation_findings` returns the
findings of that part.
"""

from care_mm.datasets.check.config import (
    DEFAULT_LIMIT,
    SPLITS,
    annotation_findings,
    check_config,
    refuse_bad_annotations,
)

__all__ = [
    "DEFAULT_LIMIT",
    "SPLITS",
    "annotation_findings",
    "check_config",
    "refuse_bad_annotations",
]
