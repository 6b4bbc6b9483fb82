"""The benchmark builds our models and their peers for the requested size, ready to be folded."""

from __future__ import annotations

import pytest
import torch

from care_mm.benchmark import models
from care_mm.errors import InputError
from care_mm.models.fold import switch_to_deploy


def number_of_norms(model: torch.nn.Module) -> int:
    return sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def test_multiply_adds_are_the_published_ones() -> None:
    macs = models.macs("care_s0", "model", (224, 224))
    assert macs / 1e9 == pytest.approx(0.7206, rel=4e-3)


def test_windows_are_laid_out_for_the_size() -> None:
    model = models.build("swin_tiny_patch4_window7_224", "backbone", (64, 96))
    shapes = [tuple(x.shape[1:3]) for x in model(torch.zeros(1, 3, 64, 96))]  # channels last
    assert shapes == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("name", ["care_s0", "repvit_m0_9"])
def test_folded_models_compute_the_same(name: str) -> None:
    model = models.build(name, "backbone")
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(x)
        assert number_of_norms(model)
        folded = switch_to_deploy(model)
        assert not number_of_norms(folded)
        assert [tuple(y.shape[2:]) for y in expected] == [(16, 24), (8, 12), (4, 6), (2, 3)]
        for out, reference in zip(folded(x), expected, strict=True):
            assert (out - reference).abs().max() <= 1e-4 * reference.abs().max()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="care_s3: neither one of care_s0, care_s1, care_s2"):
        models.build("care_s3", "model")
    with pytest.raises(InputError, match="resnet50: --what raw-maps is for the detector of a con"):
        models.build("resnet50", "raw-maps")
    with pytest.raises(InputError, match="did you mean mmdet::yolox/yolox_tiny"):
        models.build("mmdet::yolox/yolox_tny_8xb8-300e_coco.py", "model")
    with pytest.raises(InputError, match="there is care_mm::, mmdet::, mmseg::, mmpretrain::, but"):
        models.build("timm::resnet50.py", "model")


def test_the_number_of_classes_reaches_every_head() -> None:
    name = "mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py"
    model = models.build(name, "model", classes=7)
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 96)).shape == (1, 7, 64, 96)
    more = models.macs(name, "model", (64, 96), 150) - models.macs(name, "model", (64, 96), 7)
    assert more == 143 * 128 * 8 * 12  # a 1x1 convolution at a stride of 8
