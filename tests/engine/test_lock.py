"""Two runs do not share a work dir."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from care_mm.engine.lock import locked
from care_mm.errors import InputError

HOLD = """
import sys, time
from care_mm.engine.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    )
    try:
        while first.stdout.readline().strip() != "held":
            assert first.poll() is None
        with pytest.raises(InputError, match="another run is training there"), locked(tmp_path):
            pass
    finally:
        first.kill()
        first.wait()
    with locked(tmp_path):  # a kill releases it
        pass


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID"])
def test_the_other_processes_of_a_run_do_not_ask(tmp_path: Path, monkeypatch, variable) -> None:
    monkeypatch.setenv(variable, "1")
    with locked(tmp_path / "nowhere"):
        pass
