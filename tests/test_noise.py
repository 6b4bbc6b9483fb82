"""Messages that a user cannot act on are hidden, in commands only, and no others."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import mmengine.logging
import pytest

from care_mm import noise

COMMAND = """
from care_mm import cli

@cli.command
def main(argv=None):
    import mmdet.datasets
    from mmengine.fileio import FileClient
    from mmengine.logging import MMLogger
    MMLogger.get_instance("this")
    FileClient.infer_client(uri=".")

main()
"""
LIBRARY = "import care_mm, mmengine.logging; print(mmengine.logging.print_log.__module__)"


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in noise.USERS:
        monkeypatch.setattr(module, "print_log", noise._print_log)


@pytest.mark.parametrize(
    ("code", "output"), [(COMMAND, ""), (LIBRARY, "mmengine.logging.logger\n")]
)
def test_commands_are_silent_and_the_library_hides_nothing(
    tmp_path: Path, code: str, output: str
) -> None:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, output, "")


def test_other_messages_are_printed(capsys: pytest.CaptureFixture) -> None:
    noise.hide()
    mmengine.logging.print_log("Could not import OneDL. Skipping OneDL datasets.")
    mmengine.logging.print_log("Could not import mmdet")
    assert capsys.readouterr().out == "Could not import mmdet\n"


def test_other_warnings_are_shown() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        noise.hide()
        for escape in (r"invalid escape sequence '\d'", r'"\d" is an invalid escape sequence.'):
            warnings.warn(escape, SyntaxWarning, stacklevel=1)
        warnings.warn("Warning: The bbox is out of bounds, the drawn bbox may", stacklevel=1)
        warnings.warn("The image is out of bounds", stacklevel=1)
        warnings.warn("invalid escape sequence", UserWarning, stacklevel=1)
    messages = [str(warning.message) for warning in caught]
    assert messages == ["The image is out of bounds", "invalid escape sequence"]
