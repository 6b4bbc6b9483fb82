"""Full disks and short writes: saved checkpoints survive, and one line names the cause."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import injectors
import pytest
from tiny_job import error_of, finish, told

from care_mm.engine.hooks.checkpoint import LAST
from care_mm.engine.resume import read_state, saved
from care_mm.files import PARTIAL

WIDTH = 300_000  # a checkpoint of 5 MB


# Before the first iteration


def test_limit_on_file_sizes_is_found_before_the_first_iteration(tmp_path: Path) -> None:
    prepare = partial(injectors.limit_files, size=1_000_000)
    assert finish(tmp_path / "run", width=WIDTH, prepare=prepare) == 2
    assert "no room for a checkpoint of" in error_of(tmp_path / "run")
    assert told(tmp_path / "run") == []


def test_small_file_system(tmp_path: Path) -> None:
    """A disk of 8 MiB is found before the first iteration, or fills up, and nothing is lost."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        # Without permission to mount, the process limits itself.
        prepare = partial(injectors.fail_writes, after=3, keep=1000)
        assert finish(disk / "run", width=WIDTH, prepare=prepare) == 2
        assert "No space left on device" in error_of(disk / "run")
        read_state(Path((disk / "run" / LAST).read_text()))
        return
    try:
        assert finish(disk / "run", width=WIDTH) == 2
        assert "MiB are free: make room" in error_of(disk / "run")
        assert told(disk / "run") == []
        # Another program fills the disk during the run.
        options = dict(width=100_000, max_keep_ckpts=1, save_best=None)
        other = partial(injectors.fill_disk, after=2)
        assert finish(disk / "more", **options, prepare=other) == 2
        assert "No space left on device" in error_of(disk / "more")
        last = Path((disk / "more" / LAST).read_text())
        read_state(last)
        assert not list((disk / "more").glob(f".*{PARTIAL}"))
        (disk / "other").unlink()
        assert finish(disk / "more", "auto", **options) == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# During the run


@pytest.mark.parametrize("keep", [0, 100, 100_000])
@pytest.mark.parametrize("after", [1, 3, 6])
def test_short_write_loses_nothing(after: int, keep: int, tmp_path: Path) -> None:
    """The disk fills up during a save; with room again, the run resumes."""
    work_dir = tmp_path / "run"
    options = dict(width=WIDTH // 10, rounds=3)
    assert (
        finish(work_dir, **options, prepare=partial(injectors.fail_writes, after=after, keep=keep))
        == 2
    )
    assert "could not be written (No space left on device)" in error_of(work_dir)
    assert not list(work_dir.glob(f".*{PARTIAL}"))
    for file in saved(work_dir):
        read_state(file)
    if (work_dir / LAST).exists():
        read_state(Path((work_dir / LAST).read_text()))
    assert after < 2 or saved(work_dir)
    assert finish(work_dir, "auto", **options) == 0
    assert {line["iter"] for line in told(work_dir)} == set(range(12))
