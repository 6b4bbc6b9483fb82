"""Hide messages of the MM packages that a user cannot act on."""

from __future__ import annotations

import warnings
from typing import Any

import mmengine.logging
from mmengine.evaluator import metric
from mmengine.fileio import file_client

# Beginnings of messages that go through mmengine's print_log.
LOGGED = (
    "Could not import OneDL",  # an optional package of the forks
    '"FileClient" will be deprecated in future',  # mmengine's own hooks use both
    '"HardDiskBackend" is the alias of "LocalBackend"',
    "The prefix is not set in metric class",  # mmseg's metrics have none
)
# Categories of warnings, and regular expressions for the beginnings of their messages.
WARNED = (
    (SyntaxWarning, ".*invalid escape sequence"),  # in docstrings of mmdet and mmpretrain
    (UserWarning, "Warning: The (bbox|polygon) is out of bounds"),  # the drawing is cut off there
    (UserWarning, "Default ``avg_non_ignore`` is False"),  # mmseg's defaults and its own configs
    (UserWarning, "The draw is False, it means that the hook"),
    (UserWarning, "`reduce_zero_label` will be deprecated"),
)
# Modules in which the name print_log is looked up.
USERS = (mmengine.logging, file_client, metric)
_print_log = mmengine.logging.print_log


def hide() -> None:
    """Hide them in this process; for commands, so that importing care_mm hides nothing."""
    for category, beginning in WARNED:
        warnings.filterwarnings("ignore", beginning, category)
    for module in USERS:
        module.print_log = _print_others


def _print_others(msg: object, *args: Any, **kwargs: Any) -> None:
    if not str(msg).startswith(LOGGED):
        _print_log(msg, *args, **kwargs)
