"""Call any script in the process of the test, to avoid repeated imports."""

from __future__ import annotations

import io
import os
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import ManagerMixin


def forget(manager: type = ManagerMixin) -> None:
    """Clear mmengine's global instances: scopes, loggers, visualizers, message hubs."""
    for child in manager.__subclasses__():
        child._instance_dict.clear()
        forget(child)


def call(script: Path, *args: object, cwd: Path) -> str:
    """Run ``python SCRIPT ARGS`` in a folder and return its output.

    Raises:
        SystemExit: The script's status is not 0.
    """
    forget()
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setenv("LOCAL_RANK", os.environ.get("LOCAL_RANK", "0"))  # as MM's commands do
        patch.setenv("MPLBACKEND", "agg")
        patch.setattr(sys, "argv", [str(script), *map(str, args)])
        patch.setattr(sys, "path", [str(script.parent), *sys.path])
        # Formatting the config and describing the machine would take longer than the run.
        patch.setattr(Config, "pretty_text", property(lambda config: repr(config.to_dict())))
        patch.setattr(Runner, "_log_env", lambda *_: None)
        try:
            with redirect_stdout(printed), redirect_stderr(printed):
                runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise SystemExit(
                    f"{script} exited with {end.code}: {printed.getvalue()[-3000:]}"
                ) from end
        finally:
            forget()
    return printed.getvalue()
