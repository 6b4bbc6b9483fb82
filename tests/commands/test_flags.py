"""Each flag of train, test and infer does what its help says, on jobs of a second."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import crafted
import pytest
import tool
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from tiny_job import settings
from untrained import CONFIGS, write_checkpoint

from care_mm.checkpoint.reading import read_checkpoint

TESTED = """
custom_imports = dict(imports=['care_mm', 'tiny_job'], allow_failed_imports=False)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user's folder, which is the current one."""
    # Formatting the config and describing the machine would take longer than the run.
    monkeypatch.setattr(Config, "pretty_text", property(lambda config: repr(config.to_dict())))
    monkeypatch.setattr(Runner, "_log_env", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def logged(folder: Path) -> str:
    """Return the log files of all runs.

    Their output is not enough, because runs of the same second share a logger, which prints to the
    output of the first one.
    """
    return "".join(log.read_text() for log in folder.rglob("*.log"))


def write_job(folder: Path, more: str = "", **options: Any) -> str:
    """Write the config of ``tiny_job.py``: one epoch of four iterations, without a seed."""
    config = settings(folder / "told", **{"rounds": 1, "seed": None} | options).to_dict()
    for name in ("work_dir", "launcher", "experiment_name"):
        del config[name]
    lines = [f"{name} = {value!r}\n" for name, value in config.items()]
    (folder / "job.py").write_text("".join(lines) + TESTED + more)
    return "job.py"


def weights(run: str) -> crafted.State:
    return read_checkpoint(Path(run, "last_checkpoint").read_text())["state_dict"]


def crafted_of(run: str, path: Path) -> Path:
    """Save the weights of a run with a payload, and return the marker that it would create."""
    marker = path.absolute().with_name("marker")
    content = {"state_dict": weights(run), "args": crafted.touch(marker)}
    crafted.save(content, path, marker)
    return marker


def partial_of(run: str, path: Path) -> None:
    """Save the weights of a run without those of its head."""
    state = {key: value for key, value in weights(run).items() if not key.startswith("head.")}
    torch.save({"state_dict": state}, path)


@pytest.fixture
def trained(folder: Path) -> str:
    """Return the name of a work dir with a checkpoint, next to ``job.py``."""
    tool.call("train", write_job(folder), "--work-dir", "run")
    return "run"


# train


@pytest.fixture
def _restore_torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.usefixtures("_restore_torch")
def test_deterministic_gives_equal_runs_without_a_seed_in_the_config(folder: Path) -> None:
    job = write_job(folder)
    for name, flags in (("c", []), ("a", ["--deterministic"]), ("b", ["--deterministic"])):
        tool.call("train", job, "--work-dir", name, *flags)
        assert torch.are_deterministic_algorithms_enabled() is bool(flags)
    assert crafted.equal(weights("a"), weights("b"))
    assert not crafted.equal(weights("a"), weights("c")), "runs without the flag are equal, too"


def test_auto_scale_lr_scales_by_the_batch_size(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    """Batches have 3 images, and the config's rate is for 12."""
    job = write_job(folder)
    args = (job, "--work-dir", "run", "--auto-scale-lr")
    assert "no auto_scale_lr.base_batch_size" in tool.refusal(capsys, "train", *args)
    write_job(folder, "auto_scale_lr = dict(enable=False, base_batch_size=12)\n")
    rates = {}
    for name, flags in (("unscaled", []), ("scaled", ["--auto-scale-lr"])):
        tool.call("train", job, "--work-dir", name, *flags)
        content = read_checkpoint(Path(name, "last_checkpoint").read_text())
        rates[name] = content["optimizer"]["param_groups"][0]["initial_lr"]
    assert rates == {"unscaled": pytest.approx(0.01), "scaled": pytest.approx(0.0025)}


def test_resume_from_a_path_continues_in_another_folder(
    trained: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    args = ("job.py", "--work-dir", "other", "--cfg-options", "train_cfg.max_epochs=2")
    line = tool.refusal(capsys, "train", *args, "--resume", "nowhere.pth")
    assert "--resume nowhere.pth: no such file" in line
    tool.call("train", *args, "--resume", f"{trained}/epoch_1.pth")
    assert os.listdir("other").count("epoch_2.pth") == 1
    told = [json.loads(line)["iter"] for line in Path("told.jsonl").read_text().splitlines()]
    assert told == [0, 1, 2, 3, 4, 5, 6, 7]


def test_trusted_checkpoint_is_trained_from(
    trained: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    marker = crafted_of(trained, folder / "crafted.pth")
    args = ("job.py", "--work-dir", "other", "--cfg-options", "load_from=crafted.pth")
    assert "crafted.pth: refused" in tool.refusal(capsys, "train", *args)
    assert not marker.exists()
    tool.call("train", *args, "--trust-checkpoint")
    assert marker.exists() and Path("other", "epoch_1.pth").is_file()
    assert "can run any program with your rights" in logged(folder)


def test_partial_checkpoint_is_trained_from(
    trained: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    partial_of(trained, folder / "partial.pth")
    args = ("job.py", "--work-dir", "other")
    assert "has no load_from" in tool.refusal(capsys, "train", *args, "--allow-partial")
    args += ("--cfg-options", "load_from=partial.pth")
    line = tool.refusal(capsys, "train", *args)
    assert "partial.pth does not fit" in line and "--allow-partial loads what fits" in line
    tool.call("train", *args, "--allow-partial")
    assert "2 stay random: head.weight, head.bias" in logged(folder)
    assert Path("other", "epoch_1.pth").is_file()


def test_ctrl_c_ends_with_a_checkpoint_and_status_130(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    job = write_job(folder, interrupt_at=1)
    with pytest.raises(SystemExit) as caught:
        tool.call("train", job, "--work-dir", "run")
    assert caught.value.code == 130
    assert Path(Path("run", "last_checkpoint").read_text()).name == "interrupted_iter_2.pth"
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the launchers start")
@pytest.mark.parametrize(
    ("launcher", "named"), [("slurm", "needs GPUs"), ("pytorch", "start it with torchrun")]
)
def test_launcher_without_its_requirements(
    launcher: str, named: str, folder: Path, monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    args = (write_job(folder), "--work-dir", "run", "--launcher", launcher)
    assert named in tool.refusal(capsys, "train", *args)


# test


def test_testing_of_trusted_and_of_partial_checkpoints(
    trained: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    marker = crafted_of(trained, folder / "crafted.pth")
    partial_of(trained, folder / "partial.pth")
    args = ("--work-dir", "tested")
    assert "refused" in tool.refusal(capsys, "test", "job.py", "crafted.pth", *args)
    assert "does not fit" in tool.refusal(capsys, "test", "job.py", "partial.pth", *args)
    assert not marker.exists()
    tool.call("test", "job.py", "crafted.pth", *args, "--trust-checkpoint")
    assert marker.exists()
    tool.call("test", "job.py", "partial.pth", *args, "--allow-partial")
    assert "2 stay random: head.weight, head.bias" in logged(folder)


# infer


def test_inference_from_trusted_and_from_partial_checkpoints(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / "run").mkdir()
    checkpoint = write_checkpoint("classification", folder / "run")
    (folder / "run" / "last_checkpoint").write_text(str(checkpoint))
    Image.new("RGB", (40, 30)).save(folder / "image.png")
    marker = crafted_of("run", folder / "crafted.pth")
    partial_of("run", folder / "partial.pth")

    def args(checkpoint: str, out: str) -> tuple:
        config = CONFIGS["classification"]
        return (config, checkpoint, "image.png", "--device", "cpu", "--out-dir", out)

    assert "refused" in tool.refusal(capsys, "infer", *args("crafted.pth", "a"))
    assert "does not fit" in tool.refusal(capsys, "infer", *args("partial.pth", "b"))
    assert not marker.exists() and not Path("a").exists() and not Path("b").exists()
    tool.call("infer", *args("crafted.pth", "a"), "--trust-checkpoint")
    assert marker.exists()
    tool.call("infer", *args("partial.pth", "b"), "--allow-partial")
    for out in ("a", "b"):
        assert list(json.loads(Path(out, "predictions.json").read_text())) == ["image.png"]


@pytest.mark.parametrize("device", ["cqu", "cuda:99"])
def test_unavailable_device_is_refused(
    device: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    args = ("cls.py", "weights.pth", "image.png", "--out-dir", "out", "--device", device)
    assert f"--device: {device}: " in tool.refusal(capsys, "infer", *args)
