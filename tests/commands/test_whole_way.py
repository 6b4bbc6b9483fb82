"""Invariant 4: a trained checkpoint of each task goes through every command, and so do its files.

What training writes, resume, test, report, visualize, convert and export accept. What export
writes, test, infer and benchmark accept. The checkpoints are trained, because those that a test
makes up have no palette and no state of an optimizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import tool
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from pages import Page
from runtimes import require
from scripts import forget

from care_mm.config import find, load_config
from care_mm.export.runtimes import TARGETS

CONFIGS = {
    "detection": "maskrcnn_care_s0_shapes.py",
    "segmentation": "semfpn_care_s0_shapes.py",
    "classification": "care_s0_shapes.py",
}
METRICS = {
    "detection": "coco/segm_mAP_50",
    "segmentation": "mIoU",
    "classification": "accuracy/top1",
}
IMAGES = {
    "detection": "data/shapes/coco/val2017",
    "segmentation": "data/shapes/ade/ADEChallengeData2016/images/validation",
    "classification": "data/shapes/imagenet/val",
}
SHAPE = (64, 96)  # height and width of test images as the model sees them
RUNTIMES = [TARGETS[name] for name in ("onnx", "openvino", "executorch")]


def job_of(task: str) -> Config:
    """Return the config of a drawn job, to train two epochs in seconds."""
    config = load_config(tool.TOOLS.parent / "configs" / "shapes" / CONFIGS[task])
    for split in ("train", "val", "test"):
        loader = config[f"{split}_dataloader"]
        loader.update(batch_size=4 if split == "train" else 1, num_workers=0)
        loader.persistent_workers = False
        loader.dataset.draw = dict(num_train=8, num_val=2, size=96)
        for step in find(loader.dataset.pipeline, lambda node: node.type == "Resize"):
            step.update(scale=SHAPE[::-1], keep_ratio=False)
    config.model.backbone.arch = dict(base="s0", depths=(1, 1, 1, 1))
    config.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2, val_interval=1)
    config.param_scheduler = [dict(type="ConstantLR", factor=1.0, by_epoch=False)]
    config.custom_hooks = [dict(type="SummaryHook", num_images=2, num_rated=2, num_worst=1)]
    config.default_hooks.checkpoint.update(interval=1, by_epoch=True)
    config.default_hooks.logger.interval = 1
    config.log_processor.by_epoch = True
    config.optim_wrapper.optimizer.type = "AdamW"
    if task == "detection":
        config.model.test_cfg.rcnn.score_thr = 0.01  # two epochs are few
        del config.train_dataloader.dataset["indices"]
    elif task == "segmentation":
        config.train_dataloader.sampler.type = "DefaultSampler"
        config.crop_size = SHAPE
        config.model.data_preprocessor.size = SHAPE
        for step in find(config.train_dataloader.dataset, lambda node: "crop_size" in node):
            step.crop_size = SHAPE
    else:
        config.model.teacher = None
        config.train_dataloader.drop_last = False
    return config


def plain_text(config: Config) -> str:
    """Return the config as Python that is not formatted."""
    return "".join(f"{name} = {value!r}\n" for name, value in config.to_dict().items())


class Way:
    """The folder of a user who has trained a model of a task.

    Attributes:
        task: The task.
        folder: Has ``job.py``, and ``run`` with two checkpoints.
    """

    def __init__(self, task: str, folder: Path) -> None:
        self.task, self.folder = task, folder
        self._seen: dict[str, tuple[float, dict]] = {}
        job_of(task).dump(folder / "job.py")

    def call(self, name: str, *args: object) -> None:
        """Run a command in the folder."""
        forget()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            # Formatting the config and describing the machine would take longer than the run.
            patch.setattr(Config, "pretty_text", property(plain_text))
            patch.setattr(Runner, "_log_env", lambda *_: None)
            tool.call(name, *args)

    def logged(self, work_dir: str) -> str:
        """Return the newest log of a work dir."""
        logs = sorted((self.folder / work_dir).rglob("*.log"), key=lambda log: log.stat().st_mtime)
        return logs[-1].read_text()

    def results(self, weights: str) -> tuple[float, dict]:
        """Test and infer with a checkpoint or an exported file.

        Returns:
            The metric, and the records of ``predictions.json``.
        """
        if weights not in self._seen:
            self._seen[weights] = self._score(weights), self._predictions(weights)
        return self._seen[weights]

    def _score(self, weights: str) -> float:
        place = f"tested_{Path(weights).name}"
        out = ("--out", f"{place}.pkl", "--show-dir", f"{place}_shown", "--work-dir", place)
        self.call("test", "job.py", weights, *out)
        (score,) = re.findall(rf"{METRICS[self.task]}: +([-\d.]+)", self.logged(place))[-1:]
        return float(score)

    def _predictions(self, weights: str) -> dict:
        out = f"seen_{Path(weights).name}"
        args = ("--out-dir", out, "--score-thr", "0.01", "--device", "cpu")
        self.call("infer", "job.py", weights, IMAGES[self.task], *args)
        records = json.loads((self.folder / out / "predictions.json").read_text())
        drawn = {f"{name}.png" for name in records}
        images = self.folder / out / "images"
        assert {str(file.relative_to(images)) for file in images.rglob("*.png")} == drawn
        return records


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Way]:
    """``way('detection')`` -> a user's folder; each task is trained once."""
    made: dict[str, Way] = {}

    def make(task: str) -> Way:
        if task not in made:
            made[task] = Way(task, tmp_path_factory.mktemp(task))
            made[task].call("train", "job.py", "--work-dir", "run")
        return made[task]

    return make


def found(record: dict) -> list:
    """Return the classes that a record of ``predictions.json`` names."""
    parts = record.get("instances") or [{"class": name} for name in record.get("classes", [])]
    return [part["class"] for part in (parts or [record] if "class" in record else parts)]


tasks = pytest.mark.parametrize("task", CONFIGS)


@tasks
def test_a_trained_checkpoint_goes_through_every_command(
    task: str, way: Callable[[str], Way], capsys: pytest.CaptureFixture
) -> None:
    user = way(task)
    checkpoint = "run/epoch_2.pth"
    content = torch.load(user.folder / checkpoint, weights_only=False)
    assert "optimizer" in content and content["meta"]["dataset_meta"]["classes"]

    longer = ("--cfg-options", "train_cfg.max_epochs=3")
    user.call("train", "job.py", "--work-dir", "longer", "--resume", checkpoint, *longer)
    assert "Epoch(train) [3]" in (log := user.logged("longer")) and "Epoch(train) [2]" not in log

    _, records = user.results(checkpoint)
    assert any(map(found, records.values()))
    assert (user.folder / "tested_epoch_2.pth.pkl").is_file()
    shown = (user.folder / "tested_epoch_2.pth_shown").rglob("*")
    assert len([file for file in shown if file.suffix in (".png", ".jpg")]) == len(records)

    (user.folder / "run" / "report.html").unlink()
    user.call("report", "run", "--device", "cpu", "--rate", "2", "--worst", "1")
    page = Page(user.folder / "run" / "report.html")
    assert METRICS[task].rpartition("/")[2].split("_mAP")[0] in page.text and page.images
    image = next(iter(sorted((user.folder / IMAGES[task]).rglob("*.[jJ]*"))))
    user.call("visualize", "job.py", checkpoint, image, "--out-dir", "views", "--device", "cpu")
    assert any((user.folder / "views").glob("*.png"))

    convert = ("convert_checkpoint", user.folder / checkpoint, user.folder / "official.pth")
    line = tool.refusal(capsys, *convert, "--to-official")
    assert "not the weights of a" in line and "CARE classifier" in line


def test_a_trained_classifier_converts_to_the_authors_names_and_back(
    way: Callable[[str], Way],
) -> None:
    """Only a published size converts, so this job has its depth."""
    user = way("classification")
    config = load_config(user.folder / "job.py")
    config.update(custom_hooks=[], val_dataloader=None, val_evaluator=None, val_cfg=None)
    config.model.backbone.arch = "s0"
    config.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=1)
    config.dump(user.folder / "s0.py")
    user.call("train", "s0.py", "--work-dir", "s0")
    for source, target, flags in (
        ("s0/epoch_1.pth", "official.pth", ["--to-official"]),
        ("official.pth", "ours.pth", []),
    ):
        user.call("convert_checkpoint", source, target, *flags)
    trained, ours = (
        torch.load(user.folder / name, weights_only=False)["state_dict"]
        for name in ("s0/epoch_1.pth", "ours.pth")
    )
    assert trained.keys() == ours.keys()
    assert all(torch.equal(trained[key], ours[key]) for key in trained)
    user.call("infer", "s0.py", "ours.pth", IMAGES[user.task], "--out-dir", "of_ours")


@tasks
@pytest.mark.parametrize("target", RUNTIMES, ids=lambda target: target.name)
def test_an_exported_file_goes_through_every_command(
    task: str, target: object, way: Callable[[str], Way], capsys: pytest.CaptureFixture
) -> None:
    require(target)
    user = way(task)
    file = f"model{target.suffix}"
    size = ("--shape", *SHAPE) if target.fixed_shape else ()
    user.call("export", "job.py", "run/epoch_2.pth", "--format", target.name, "--out", file, *size)
    if target.name in ("onnx", "openvino"):
        capsys.readouterr()
        user.call("benchmark", "--models", file, "--rounds", "1", "--threads", "1")
        assert file in capsys.readouterr().out
    score, expected = user.results("run/epoch_2.pth")
    own_score, actual = user.results(file)
    assert own_score == pytest.approx(score, abs=0.1)
    assert actual.keys() == expected.keys() and any(map(found, actual.values()))
    for name, record in expected.items():
        if record.get("instances"):
            best, own = record["instances"][0], actual[name]["instances"][0]
            assert own["score"] == pytest.approx(best["score"], abs=2e-3)
        else:
            assert set(found(actual[name])) == set(found(record))
    line = tool.refusal(
        capsys, "visualize", user.folder / "job.py", user.folder / file, "x.jpg", "--out-dir", "no"
    )
    assert "give the checkpoint that it was exported from" in line


@tasks
def test_a_core_ml_file_is_written(task: str, way: Callable[[str], Way]) -> None:
    pytest.importorskip("coremltools")
    user = way(task)
    args = ("--format", "coreml", "--out", "model.mlpackage", "--shape", *SHAPE)
    user.call("export", "job.py", "run/epoch_2.pth", *args)
    assert (user.folder / "model.mlpackage").is_dir()
