"""AtomicCheckpointHook writes what mmengine's hook writes; kills and full disks: tests/faults."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import mmengine.runner.checkpoint
import mmengine.runner.runner as runner_module
import pytest
import torch
from mmengine.fileio.backends import registry_utils
from tiny_job import finish

from care_mm.checkpoint.reading import read_checkpoint
from care_mm.engine.hooks.checkpoint import AtomicCheckpointHook, _streaming
from care_mm.files import PARTIAL, sha256_of


def test_every_file_of_mmengines_hook_is_written(finished: Path) -> None:
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
    assert published.stem.split("-")[1] == sha256_of(published)[:8]
    assert sorted(read_checkpoint(published)) == keys
    assert not list((tmp_path / "run").glob(".epoch_*"))


def test_leftovers_of_a_kill_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f".epoch_1.pth.0123abcd{PARTIAL}").write_bytes(b"half")
    assert finish(tmp_path / "run", rounds=1) == 0
    assert not list((tmp_path / "run").glob(".epoch_*"))


def test_no_file_backend_is_added_to_mmengine() -> None:
    assert type(mmengine.fileio.get_file_backend("some/file")).__name__ == "LocalBackend"
    for backend in registry_utils.backends.values():
        assert backend.__module__.startswith("mmengine."), backend


def test_checkpoints_are_not_serialised_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, content = runner_module.save_checkpoint, {"state_dict": {"w": torch.ones(3)}}
    monkeypatch.setattr(mmengine.runner.checkpoint, "io", None)  # no BytesIO
    with _streaming():
        runner_module.save_checkpoint(content, str(tmp_path / "new" / "a.pth"), backend_args=None)
    assert runner_module.save_checkpoint is original
    assert read_checkpoint(tmp_path / "new" / "a.pth")["state_dict"]["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "is_local"),
    [
        (dict(), True),
        (dict(out_dir="elsewhere"), True),
        (dict(backend_args=dict(backend="local")), True),
        (dict(backend_args=dict(backend="petrel")), False),
        (dict(out_dir="s3://bucket/runs"), False),
    ],
)
def test_remote_folders_are_left_to_mmengine(
    arguments: dict, is_local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Started(Exception):
        pass

    def start(self: AtomicCheckpointHook, runner: object) -> None:
        raise Started

    monkeypatch.setattr(AtomicCheckpointHook.__base__, "before_train", start)
    hook = AtomicCheckpointHook(**arguments)
    with pytest.raises(Started):
        hook.before_train(SimpleNamespace(work_dir=str(tmp_path)))
    assert hook.is_local is is_local


def test_a_misspelt_metric_of_save_best_costs_only_the_best_checkpoint(tmp_path: Path) -> None:
    assert finish(tmp_path / "run", rounds=2, save_best=["acc", "acc_5"]) == 0
    names = {file.name for file in (tmp_path / "run").glob("*.pth")}
    assert {"epoch_1.pth", "epoch_2.pth"} <= names and len(names) == 3
    (log,) = (tmp_path / "run").rglob("*.log")
    assert log.read_text().count("save_best='acc_5': the validation has no such metric") == 1
