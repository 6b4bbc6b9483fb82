"""Two processes train and test like one: equal curves, and every image counts once."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
import scripts

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
TRAIN, TEST = ROOT / "tools" / "train.py", ROOT / "tools" / "test.py"
# Only the order of the images is random, batch statistics are kept, and losses are plain averages:
# nothing depends on how a batch is distributed.
CONFIG = f"""
_base_ = {str(ROOT / "configs" / "shapes" / "care_s0_shapes.py")!r}
custom_imports = dict(
    imports=['care_mm', 'curve'])
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=32), dict(type='PackInputs')]
draw = dict(num_train=12, num_val=4, size=96, seed=3)
loading = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=4, dataset=dict(draw=draw, indices=24, pipeline=pipeline), **loading)
val_dataloader = dict(
    batch_size=2, dataset=dict(draw=draw, indices=5, pipeline=pipeline), **loading)
test_dataloader = val_dataloader
model = dict(
    backbone=dict(
        _delete_=True, type='CARETransformer',
        arch=dict(
            depths=(1, 1), mem_dims=(8, 16), interaction_ratios=((1, 1), (1, 1)),
            attn_head_dims=(8, 8)),
        out_indices=(1, ), norm_eval=True),
    head=dict(in_channels=64), teacher=None, teacher_checkpoint=None,
    train_cfg=dict(_delete_=True))
train_cfg = dict(max_epochs=2, val_interval=2)
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[3], gamma=0.5)]
optim_wrapper = dict(optimizer=dict(lr=2e-3))
custom_hooks = [dict(type='CurveHook', file='curve.jsonl')]
"""
HALF = {"train_dataloader.batch_size": 2}


def args_to_train(name: str, *args: str, **options: object) -> tuple[str, ...]:
    """Return the arguments of a run in the folder ``name``, with its curve next to it."""
    settings = {"custom_hooks.0.file": f"{name}.jsonl", **options}
    settings = [f"{key}={value}" for key, value in settings.items()]
    return ("job.py", "--work-dir", name, *args, "--cfg-options", *settings)


def args_to_test(name: str) -> tuple[str, ...]:
    return ("job.py", "alone/epoch_2.pth", "--work-dir", name, "--out", f"{name}.pkl")


def curve(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a run of one process."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "job.py").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        scripts.call(TRAIN, *args_to_train("alone"), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[dict]:
    lines = curve(folder, "alone")
    first, second = (sum(line["loss"] for line in lines[i : i + 6]) for i in (0, 6))
    assert len(lines) == 12 and second < first, "the loss did not fall"
    return lines


@pytest.fixture
def in_one(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that trains in this process and returns the curve."""
    monkeypatch.syspath_prepend(FOLDER)

    def train(name: str, *args: str, **options: object) -> list[dict]:
        scripts.call(TRAIN, *args_to_train(name, *args, **options), cwd=folder)
        return curve(folder, name)

    return train


def free_port() -> str:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def ranks(folder: Path) -> tuple[list[list[str]], list[int | None]]:
    """Return the failures of the commands in each of two processes, and their exit statuses.

    The last command would never end; the second process is killed during it.
    """
    commands = [
        [TRAIN, *args_to_train("refused", **{"model.backbone.norm_cfg.type": "SyncBN"})],
        [TRAIN, *args_to_train("shared", **HALF)],
        [TRAIN, *args_to_train("joined", "--resume", "alone/epoch_1.pth", **HALF)],
        [TEST, *args_to_test("tested")],
        [TRAIN, *args_to_train("killed", **HALF, **{"train_cfg.max_epochs": 100000})],
    ]
    orders = json.dumps([[str(script), free_port(), *args] for script, *args in commands])
    env = dict(os.environ, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    env["PYTHONPATH"] = os.pathsep.join([str(FOLDER), str(FOLDER.parent)])
    processes = []
    for rank in range(2):
        with (folder / f"rank{rank}.log").open("w") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(FOLDER / "rank.py"), orders],
                    cwd=folder,
                    env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        until = time.monotonic() + 240
        while not (folder / "killed.jsonl").exists():
            output = [(folder / f"rank{rank}.log").read_text()[-3000:] for rank in range(2)]
            assert all(process.poll() is None for process in processes), output
            assert time.monotonic() < until, output
            time.sleep(0.05)
        processes[1].kill()
        processes[1].wait()
        with suppress(subprocess.TimeoutExpired):  # the test reports it
            processes[0].wait(60)
        statuses = [process.poll() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [curve(folder, f"rank{rank}") for rank in range(2)], statuses


def assert_same(lines: list[dict], reference: list[dict]) -> None:
    assert [line["images"] for line in lines] == [line["images"] for line in reference]
    losses = [[line["loss"] for line in part] for part in (lines, reference)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_two_processes_have_the_curve_of_one(folder: Path, alone: list[dict], ranks) -> None:
    assert_same(curve(folder, "shared"), alone)


def test_accumulated_gradients_have_the_curve_of_one(in_one, alone: list[dict]) -> None:
    options = {**HALF, "optim_wrapper.accumulative_counts": 2}
    options["param_scheduler.0.milestones"] = "[6]"  # it counts iterations, not steps
    halves = in_one("accumulated", **options)
    steps = [
        dict(
            loss=(first["loss"] + second["loss"]) / 2,
            images=sorted(first["images"] + second["images"]),
        )
        for first, second in zip(halves[::2], halves[1::2], strict=True)
    ]
    assert_same(steps, alone)


def test_a_run_of_two_processes_resumes_in_one(in_one, alone: list[dict], ranks) -> None:
    assert_same(in_one("split", "--resume", "shared/epoch_1.pth"), alone[6:])


def test_a_run_of_one_process_resumes_in_two(folder: Path, alone: list[dict], ranks) -> None:
    assert_same(curve(folder, "joined"), alone[6:])


def test_evaluation_counts_every_image_once(folder: Path, ranks) -> None:
    """Two processes evaluate five images in batches of two."""
    scripts.call(TEST, *args_to_test("reference"), cwd=folder)
    metrics, images = [], []
    for name in ("reference", "tested"):
        (file,) = (folder / name).glob("*/2*.json")
        metrics.append(json.loads(file.read_text())["accuracy/top1"])
        samples = pickle.loads((folder / f"{name}.pkl").read_bytes())
        images.append([(sample["img_path"], sample["pred_label"].item()) for sample in samples])
    assert metrics[0] == metrics[1]
    assert images[0] == images[1] and len(set(images[0])) == 5


def test_a_killed_process_ends_the_other(ranks) -> None:
    _, (first, second) = ranks
    assert second == -9
    assert first not in (0, None), "the other process continues or hangs"


def test_sync_bn_without_gpus_is_refused(ranks) -> None:
    (refused, *done), (refused_too, *done_too) = ranks[0]
    assert "train.py exited with 2: " in refused
    assert "train.py: error: the model has SyncBN, which" in refused
    assert refused_too.endswith("train.py exited with 2: "), "the error is printed twice"
    assert done == done_too == ["", "", ""]
