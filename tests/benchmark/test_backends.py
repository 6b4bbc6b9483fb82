"""Every backend runs the model that it is given; settings that it lacks are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import tool
import torch
from runtimes import require

from care_mm.benchmark import models
from care_mm.benchmark.backends import RUNTIMES, Setting, open_file, prepare, write_file
from care_mm.errors import InputError

SHAPES = tool.TOOLS.parent / "configs" / "shapes"
DETECTOR = str(SHAPES / "maskrcnn_care_s0_shapes.py")
ONE_STAGE = "mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py"


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_training_step_reaches_every_parameter(channels_last: bool) -> None:
    model = models.build("care_s0", "backbone")
    reached = set()
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: reached.add(name))
    setting = Setting("eager", train=True, channels_last=channels_last)
    prepare(model, torch.rand(2, 3, 64, 64), setting)()
    assert reached == {name for name, _ in model.named_parameters()}
    with pytest.raises(InputError, match="backend deploy: does not train"):
        prepare(model, torch.rand(2, 3, 64, 64), Setting("deploy", train=True))


@pytest.mark.parametrize("backend", RUNTIMES)
@torch.no_grad()
def test_runtimes_run_the_exported_file_of_a_peer(backend: str, tmp_path: Path) -> None:
    require(RUNTIMES[backend].target)
    model = models.build("mobilenetv2_100", "backbone")
    images, setting = torch.rand(1 if backend == "ncnn" else 2, 3, 64, 96), Setting(backend)
    expected = model(images)
    file = tmp_path / f"peer{RUNTIMES[backend].target.suffix}"
    write_file(model, images, setting, file)
    outputs = open_file(file, images, setting).run(images.numpy())
    for actual, reference in zip(outputs, expected, strict=True):
        assert (torch.from_numpy(actual) - reference).abs().max() <= 1e-4 * reference.abs().max()
    with pytest.raises(InputError, match="accepts images of 64x96"):
        open_file(file, torch.rand(2, 3, 96, 64), setting)


@pytest.mark.parametrize("config", [DETECTOR, ONE_STAGE], ids=["two-stage", "one-stage"])
@torch.no_grad()
def test_runtimes_run_a_detector_to_its_final_boxes(config: str, tmp_path: Path) -> None:
    """All candidates of a one-stage detector count, so that the weights do not decide the time."""
    pytest.importorskip("onnxruntime")
    images, setting = torch.rand(1, 3, 160, 128), Setting("onnxruntime")
    file = tmp_path / "detector.onnx"
    write_file(models.build(config, "model"), images, setting, file)
    program = open_file(file, images, setting)
    assert program.about["task"] == "detector"
    outputs = program(images)
    assert len(outputs["boxes"]) == len(outputs["scores"]) > 0
    assert config == DETECTOR or outputs["valid"].float().mean() > 0.9


@torch.no_grad()
def test_torch_runs_a_detector_as_it_is_exported_or_as_mmdet_predicts() -> None:
    images = torch.rand(1, 3, 96, 64)
    deployed = prepare(models.build(DETECTOR, "model"), images, Setting("deploy", dtype="bf16"))()
    assert deployed[0].shape == (30, 4)  # max_per_img
    assert deployed[0].dtype == torch.float32  # boxes need full precision
    (sample,) = prepare(models.build(DETECTOR, "model"), images, Setting("baseline"))()
    assert sample.pred_instances.bboxes.shape[1] == 4


@torch.no_grad()
def test_a_segmentor_runs_up_to_logits_of_the_size_of_the_input() -> None:
    config = str(SHAPES / "semfpn_care_s0_shapes.py")
    for backend in ("baseline", "deploy"):
        logits = prepare(
            models.build(config, "model"), torch.rand(1, 3, 64, 96), Setting(backend)
        )()
        assert logits.shape[2:] == (64, 96)


def test_settings_that_a_backend_lacks_are_refused(tmp_path: Path) -> None:
    images = torch.rand(1, 3, 64, 64)
    with pytest.raises(InputError, match="backend onnxruntime: is measured in fp32 on the CPU"):
        write_file(
            torch.nn.Identity(), images, Setting("onnxruntime", dtype="fp16"), tmp_path / "a.onnx"
        )
    detector = models.build(DETECTOR, "model")
    for backend in ("ncnn", "litert", "executorch"):
        with pytest.raises(InputError, match=r"not installed|no such|no two-stage detector"):
            write_file(detector, images, Setting(backend), tmp_path / "b")
    with pytest.raises(InputError, match="--train: a detector needs annotations"):
        prepare(detector, images, Setting("eager", train=True))
    with pytest.raises(InputError, match="suppression of a detector cannot be captured"):
        prepare(detector, images, Setting("cudagraph", device="cuda"))
