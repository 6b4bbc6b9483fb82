"""Full disks, short writes, folders that take nothing: what was saved stays, one line says so."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path

import injectors
import mmengine.runner.runner as their_runner
import pytest
import torch
from mmengine.config import Config
from tiny_job import finish, settings, told

from care_mm import files
from care_mm.checkpoint.reading import read_checkpoint
from care_mm.engine.disk import check_room, prepare_work_dir
from care_mm.engine.hooks import checkpoint as checkpointing
from care_mm.engine.hooks.checkpoint import LAST, AtomicBackend, AtomicCheckpointHook
from care_mm.engine.resume import find_resumable, holds_a_run, read_state, saved
from care_mm.errors import InputError
from care_mm.files import PARTIAL

WIDTH = 300_000  # a checkpoint of 5 MB


def error_of(work_dir: Path) -> str:
    """The one line that the job ended with."""
    line = work_dir.with_suffix(".error").read_text()
    assert line.strip() and "\n" not in line and len(line) < 1200, line
    return line


# Before the first iteration


def test_limit_on_file_sizes_is_found_before_the_first_iteration(tmp_path: Path) -> None:
    prepare = partial(injectors.limit_files, size=1_000_000)
    assert finish(tmp_path / "run", width=WIDTH, prepare=prepare) == 2
    assert "no room for a checkpoint of" in error_of(tmp_path / "run")
    assert told(tmp_path / "run") == []


def test_full_disk_is_found_before_the_first_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there counts as room: a run that goes on replaces it."""
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"need 11 MiB \(3 of 4\) and 10 MiB are free: make room"):
        check_room(tmp_path, size=4_000_000, number=3)
    assert not any(tmp_path.iterdir())
    (tmp_path / "epoch_1.pth").write_bytes(bytes(3_000_000))
    check_room(tmp_path, size=4_000_000, number=3)
    assert [file.name for file in tmp_path.iterdir()] == ["epoch_1.pth"]


@pytest.mark.parametrize("place", ["file", "nowhere"])
def test_work_dir_that_takes_no_files(place: str, tmp_path: Path) -> None:
    """/proc is read-only even for root."""
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run" if place == "file" else Path("/proc/care_mm_run")
    with pytest.raises(InputError, match=r"--work-dir .*: cannot be written"):
        prepare_work_dir(folder)


def test_work_dir_that_takes_files_is_left_as_it_was(tmp_path: Path) -> None:
    prepare_work_dir(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_small_file_system(tmp_path: Path) -> None:
    """A disk of 8 MiB: found before the first iteration, or filled, with nothing lost."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        # Without the right to mount: the same, by a limit that the process sets itself.
        prepare = partial(injectors.fail_writes, after=3, keep=1000)
        assert finish(disk / "run", width=WIDTH, prepare=prepare) == 2
        assert "No space left on device" in error_of(disk / "run")
        read_state(Path((disk / "run" / LAST).read_text()))
        return
    try:
        assert finish(disk / "run", width=WIDTH) == 2
        assert "MiB are free: make room" in error_of(disk / "run")
        assert told(disk / "run") == []
        # The room is taken by somebody else while it runs.
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


# While it runs


@pytest.mark.parametrize("keep", [0, 100, 100_000])
@pytest.mark.parametrize("after", [1, 3, 6])
def test_short_write_loses_nothing(after: int, keep: int, tmp_path: Path) -> None:
    """The disk fills up at one save or another; with room again the run goes on."""
    whole = tmp_path / "run"
    options = dict(width=WIDTH // 10, rounds=3)
    assert (
        finish(whole, **options, prepare=partial(injectors.fail_writes, after=after, keep=keep))
        == 2
    )
    assert "could not be written (No space left on device)" in error_of(whole)
    assert not list(whole.glob(f".*{PARTIAL}"))
    for file in saved(whole):
        read_state(file)
    if (whole / LAST).exists():
        read_state(Path((whole / LAST).read_text()))
    assert after < 2 or saved(whole)
    assert finish(whole, "auto", **options) == 0
    assert {line["iter"] for line in told(whole)} == set(range(12))


# Which one is resumed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work dir of a run with two checkpoints and a best one."""
    work_dir = tmp_path_factory.mktemp("finished") / "run"
    assert finish(work_dir, rounds=2) == 0
    return work_dir


def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("damage", ["empty", "half", "bit", "not a checkpoint", "nan", "weights"])
def test_resume_takes_the_newest_whole_one_and_says_why(
    damage: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    work_dir = copy(finished, tmp_path)
    newest = saved(work_dir)[0]
    data = newest.read_bytes()
    content = read_checkpoint(newest)
    if damage == "bit":
        data = bytearray(data)
        data[len(data) // 2] ^= 1
    elif damage == "nan":
        next(iter(content["state_dict"].values())).fill_(float("nan"))
    bad = {"empty": b"", "half": data[: len(data) // 2], "bit": bytes(data)}
    bad["not a checkpoint"] = b"hello"
    if damage in bad:
        newest.write_bytes(bad[damage])
    else:
        keys = content if damage == "nan" else {"state_dict"}
        torch.save({key: content[key] for key in keys}, newest)
    path, state = find_resumable(settings(work_dir))
    assert (path.name, state["meta"]["epoch"]) == ("epoch_1.pth", 1)
    said = capsys.readouterr()
    assert f"skipped checkpoint {newest}" in said.out + said.err


def test_nothing_of_use_is_one_line(finished: Path, tmp_path: Path) -> None:
    work_dir = copy(finished, tmp_path)
    for file in saved(work_dir):
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 2 checkpoints in .* is of use"):
        find_resumable(settings(work_dir))


def test_last_checkpoint_is_not_needed(finished: Path, tmp_path: Path) -> None:
    work_dir = copy(finished, tmp_path)
    (work_dir / LAST).unlink()
    assert find_resumable(settings(work_dir))[0].name == "epoch_2.pth"
    assert holds_a_run(settings(work_dir)) == "epoch_2.pth"


def test_fresh_folder_holds_no_run(tmp_path: Path) -> None:
    assert holds_a_run(settings(tmp_path)) is None
    assert find_resumable(settings(tmp_path)) is None


def test_resumed_file_with_code_in_it_is_refused(finished: Path, tmp_path: Path) -> None:
    import crafted

    work_dir = copy(finished, tmp_path)
    content = read_checkpoint(saved(work_dir)[0])
    content["optimizer"]["state"] = crafted.touch(tmp_path / "marker")
    torch.save(content, saved(work_dir)[0])
    assert finish(work_dir, str(work_dir / "epoch_2.pth"), rounds=3) == 2
    assert "refused" in error_of(work_dir)
    assert find_resumable(settings(work_dir))[0].name == "epoch_1.pth"
    assert not (tmp_path / "marker").exists()


# The hook


def test_everything_of_mmengines_hook_is_there(finished: Path) -> None:
    names = {file.name for file in finished.glob("*.pth")}
    assert {"epoch_1.pth", "epoch_2.pth"} <= names
    best = [name for name in names if name.startswith("best_acc_epoch_")]
    assert len(best) == 1 and len(names) == 3
    content = read_checkpoint(finished / "epoch_2.pth")
    assert content["message_hub"]["runtime_info"]["best_ckpt"] == str(finished / best[0])
    assert {"state_dict", "ema_state_dict", "optimizer", "param_schedulers"} <= content.keys()
    assert "optimizer" not in read_checkpoint(finished / best[0])


def test_published_file_is_named_by_its_hash(tmp_path: Path) -> None:
    keys = ["meta", "state_dict"]
    assert finish(tmp_path / "run", rounds=1, save_best=None, published_keys=keys) == 0
    (published,) = (tmp_path / "run").glob("epoch_1-*.pth")
    assert published.stem.split("-")[1] == files.sha256_of(published)[:8]
    assert sorted(read_checkpoint(published)) == keys
    assert not [file for file in (tmp_path / "run").iterdir() if file.name.startswith(".")]


def test_leftovers_of_a_kill_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f".epoch_1.pth.0123abcd{PARTIAL}").write_bytes(b"half")
    assert finish(tmp_path / "run", rounds=1) == 0
    assert not [file for file in (tmp_path / "run").iterdir() if file.name.startswith(".")]


def test_importing_changes_no_file_backend_of_others() -> None:
    from mmengine.fileio import get_file_backend

    assert type(get_file_backend("some/file")).__name__ == "LocalBackend"
    assert type(get_file_backend(backend_args=dict(backend="care_mm_atomic"))) is AtomicBackend


def test_checkpoints_are_not_made_whole_in_memory(tmp_path: Path, monkeypatch) -> None:
    """They pass by the backend, which takes bytes; others' files go the way they always went."""
    real, content = their_runner.save_checkpoint, {"state_dict": {"w": torch.ones(3)}}
    monkeypatch.setattr(AtomicBackend, "put", None)
    with checkpointing._streamed():
        backend = dict(backend=checkpointing.BACKEND)
        their_runner.save_checkpoint(content, str(tmp_path / "new" / "a.pth"), backend_args=backend)
        their_runner.save_checkpoint(content, str(tmp_path / "b.pth"))
    assert their_runner.save_checkpoint is real
    for name in ("new/a.pth", "b.pth"):
        assert read_checkpoint(tmp_path / name)["state_dict"]["w"].tolist() == [1, 1, 1]


def test_plain_hook_of_a_foreign_config_becomes_ours(tmp_path: Path) -> None:
    from care_mm.engine.hooks import GUARDS, ensure_guards

    config = Config(dict(default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=5))))
    ensure_guards(config)
    assert config.default_hooks.checkpoint == dict(type=AtomicCheckpointHook.__name__, interval=5)
    assert {hook["type"] for hook in config.default_hooks.values()} == {
        guard.__name__ for guard in GUARDS.values()
    }
    config = Config(dict(default_hooks=dict(finite=None), custom_hooks=[dict(type="MyHook")]))
    ensure_guards(config)
    assert "finite" not in config.default_hooks
