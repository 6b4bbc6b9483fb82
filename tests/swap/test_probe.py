"""The trial of a new model: what the original cannot do either is no reason to refuse."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import tool
import torch
from mmengine.config import Config
from swap.examples import PSPNET, RETINANET, swapped

from care_mm.errors import InputError
from care_mm.swap import read, try_model

QUERYINST = "mmdet::queryinst/queryinst_r50_fpn_1x_coco.py"


def broken(config: Config, code: str) -> Config:
    """Return the config with a neck or head that runs ``raise`` on its inputs."""
    config = copy.deepcopy(config)
    config.model.neck = dict(type="Broken", of=config.model.neck, message=code)
    return config


@pytest.fixture
def broken_neck(monkeypatch):
    """A neck that fails with a message; it may contain the widths of its inputs."""
    from mmengine.model import BaseModule
    from mmengine.registry import MODELS

    class Broken(BaseModule):
        def __init__(self, of: dict, message: str) -> None:
            super().__init__()
            self.message = message

        def forward(self, maps):
            raise RuntimeError(self.message.format(width=maps[-1].shape[1]))

    monkeypatch.setitem(MODELS._module_dict, "Broken", Broken)


def test_a_model_that_fails_with_its_own_backbone_is_written_with_a_remark(
    tmp_path: Path, capsys
) -> None:
    out = tmp_path / "queryinst.py"
    tool.call("swap_backbone", QUERYINST, "--arch", "s0", "--out", out)
    remark = "both the original and the new model fail with RuntimeError"
    assert f"model: not known to run: with random weights and a blank image, {remark}" in (
        capsys.readouterr().out
    )
    text = " ".join(out.read_text().replace("\n#", "").split())
    assert remark in text
    assert Config.fromfile(out).model.backbone.type == "CARETransformer"


@pytest.mark.parametrize(
    ("new", "old", "alike"),
    [
        ("size -3 is negative", "size -7 is negative", True),
        ("no {width} channels", "no {width} channels", True),
        ("size is negative", "not implemented on the CPU", False),
    ],
)
def test_only_the_same_failure_excuses_the_new_model(
    broken_neck, new: str, old: str, alike: bool
) -> None:
    config, original = swapped(RETINANET, arch="s0").config, read(RETINANET).config
    if alike:
        assert "both" in try_model(broken(config, new), broken(original, old))
    else:
        with pytest.raises(InputError, match=f"does not run .RuntimeError: {new}"):
            try_model(broken(config, new), broken(original, old))


def test_a_model_whose_original_runs_is_refused(broken_neck) -> None:
    config = broken(swapped(RETINANET, arch="s0").config, "not with CARE")
    for original in (read(RETINANET).config, None):
        with pytest.raises(InputError, match="not with CARE"):
            try_model(config, original)


def test_a_model_that_does_not_build_is_refused_though_the_original_does_not_either() -> None:
    config, original = swapped(PSPNET, arch="s0").config, read(PSPNET).config
    for wrong in (config, original):
        wrong.model.decode_head.num_clases = 3
    with pytest.raises(InputError, match="num_clases"):
        try_model(config, original)


def test_the_trial_is_the_same_each_time_and_leaves_the_random_numbers_alone() -> None:
    config = swapped(RETINANET, arch="s0").config
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    assert try_model(config, config) == ""
    assert torch.equal(torch.rand(3), expected)
