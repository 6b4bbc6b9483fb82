"""Every backend runs the model that it is given; settings that it lacks are refused."""

from __future__ import annotations

import pytest
import tool
import torch

from care_mm.benchmark import models
from care_mm.benchmark.backends import RUNTIMES, Setting, open_exported, prepare
from care_mm.errors import InputError

DETECTOR = tool.TOOLS.parent / "configs" / "shapes" / "maskrcnn_care_s0_shapes.py"


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
def test_runtimes_run_the_exported_file_of_a_peer(backend: str) -> None:
    pytest.importorskip("onnxruntime")
    model = models.build("mobilenetv2_100", "backbone")
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = model(images)
        outputs = open_exported(model, images, Setting(backend)).run(images.numpy())
    for actual, reference in zip(outputs, expected, strict=True):
        assert (torch.from_numpy(actual) - reference).abs().max() <= 1e-4 * reference.abs().max()


def test_runtimes_run_the_exported_file_of_a_detector() -> None:
    pytest.importorskip("onnxruntime")
    model = models.build(str(DETECTOR), "detector")
    with torch.no_grad():
        program = open_exported(model, torch.rand(1, 3, 96, 64), Setting("onnxruntime"))
    assert program.about["task"] == "detector"
    boxes, scores = program.run(torch.rand(1, 3, 96, 64).numpy())[:2]
    assert len(boxes) == len(scores) > 0


def test_a_runtime_refuses_what_it_is_not_measured_in() -> None:
    with pytest.raises(InputError, match="backend onnxruntime: is measured in fp32 on the CPU"):
        prepare(torch.nn.Identity(), torch.rand(1, 3, 8, 8), Setting("onnxruntime", dtype="fp16"))
