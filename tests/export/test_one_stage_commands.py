"""The export command on one-stage detectors, and the commands that accept its files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import tool
import torch
from export.test_one_stage import META, SHAPE, assert_equal, export, made, silent
from runtimes import require_for
from scripts import forget

from care_mm.config import load_config
from care_mm.datasets.shapes import ensure_shapes
from care_mm.export import pipeline
from care_mm.export.graphs import detector_of
from care_mm.predict.predictor import Predictor


def test_core_ml_has_raw_maps(tmp_path: Path) -> None:
    coremltools = pytest.importorskip("coremltools")
    path = tmp_path / "x.mlpackage"
    lines = export(made("RTMDet")[1], path, shape=SHAPE, precision="fp16")
    assert "needs macOS" in " ".join(lines)
    spec = coremltools.utils.load_spec(str(path))
    assert {o.name for o in spec.description.output} == set(
        detector_of(made("RTMDet")[1]).map_names
    )


def test_a_detector_that_finds_nothing_is_exported_and_its_maps_are_compared(
    tmp_path: Path,
) -> None:
    lines = export(silent("RTMDet"), tmp_path / "x.onnx", shape=SHAPE)
    assert pipeline.NOTHING_DETECTED in lines
    compared = [line for line in lines if "largest relative difference" in line]
    assert {line.split(",")[0] for line in compared} == set(
        detector_of(made("RTMDet")[1]).map_names
    )
    assert (tmp_path / "x.onnx").is_file()


@dataclass(frozen=True)
class Job:
    """Files of a job."""

    config: Path
    checkpoint: Path
    image: Path


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """RTMDet-Ins with three drawn images to test on."""
    folder = tmp_path_factory.mktemp("one_stage")
    data = ensure_shapes(folder / "drawn", num_train=1, num_val=3, size=96) / "coco"
    config, model = made("RTMDet-Ins")
    runtime = tool.TOOLS.parent / "configs" / "_base_" / "runtime_det.py"
    annotations = data / "annotations" / "instances_val2017.json"
    pipeline_ = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(96, 64), keep_ratio=False),
        dict(type="PackDetInputs"),
    ]
    dataset = dict(
        type="CocoDataset",
        data_root=str(data),
        metainfo=META,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=pipeline_,
    )
    loader = dict(batch_size=2, sampler=dict(type="DefaultSampler", shuffle=False), dataset=dataset)
    evaluator = dict(type="CocoMetric", ann_file=str(annotations), metric=["bbox", "segm"])
    (folder / "job.py").write_text(
        f"_base_ = {str(runtime)!r}\nmodel = {config!r}\ntest_dataloader = {loader!r}\n"
        f"test_cfg = dict(type='TestLoop')\ntest_evaluator = {evaluator!r}\n"
    )
    meta = {"dataset_meta": META}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, folder / "job.pth")
    image = next((data / "val2017").iterdir())
    return Job(folder / "job.py", folder / "job.pth", image)


@pytest.mark.parametrize("name", ["whole.onnx", "maps.onnx", "maps.tflite"])
def test_the_commands_accept_a_file(job: Job, name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    what = ("--what", "raw-maps") if name == "maps.onnx" else ()
    out = ("--format", require_for(file), "--out", file)
    tool.call("export", job.config, job.checkpoint, *out, "--shape", 64, 96, *what)
    expected, actual = (
        predictor(predictor.read(job.image)).pred_instances
        for predictor in (
            Predictor(load_config(job.config), weights, "cpu") for weights in (job.checkpoint, file)
        )
    )
    assert_equal(expected, actual)
    tool.call("infer", job.config, file, job.image, "--out-dir", tmp_path / "results")
    (record,) = json.loads((tmp_path / "results" / "predictions.json").read_text()).values()
    assert len(record["instances"]) == len(expected)
    if what:
        return
    scores = []
    for weights in (job.checkpoint, file):
        work = tmp_path / weights.name.replace(".", "_")
        forget()  # loggers of the run before
        tool.call("test", job.config, weights, "--work-dir", work)
        (result,) = work.glob("*/*.json")
        scores.append(json.loads(result.read_text()))
    assert scores[0]["coco/bbox_mAP"] == pytest.approx(scores[1]["coco/bbox_mAP"], abs=0.002)
    assert scores[0]["coco/segm_mAP"] == pytest.approx(scores[1]["coco/segm_mAP"], abs=0.002)
