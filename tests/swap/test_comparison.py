"""The comparison of backbones: one recipe for each of them, runs that continue, one table."""

from __future__ import annotations

from pathlib import Path

import pytest
import tool
import torch
from commands.conftest import REPOSITORY
from mmengine.config import Config
from mmengine.registry import MODELS

from care_mm.config import load_config
from care_mm.peers.layer_scale import NAMES, LayerScale
from care_mm.report.comparison import finished_run, rows
from care_mm.swap.comparison import Contestant, comparable

SEGMENTOR = REPOSITORY / "configs/camvid/semfpn_care_s0_camvid.py"
DETECTOR = REPOSITORY / "configs/nuclei/maskrcnn_care_s0_nuclei.py"
BACKBONES = ("care:s0", "care:s1", "emo:1m", "mobilenetv2", "timm:resnet18")


def compared(path: Path, backbone: str, steps: int = 100) -> Config:
    return comparable(load_config(path), Contestant.parse(backbone), steps, seed=3)


@pytest.mark.parametrize("path", [SEGMENTOR, DETECTOR], ids=["segmentor", "detector"])
def test_runs_differ_in_the_backbone_and_in_what_reads_it_alone(path: Path) -> None:
    configs = {name: compared(path, name).to_dict() for name in BACKBONES}
    inputs = []
    for config in configs.values():
        inputs.append(tuple(config["model"]["neck"].pop("in_channels")))
        backbone = config["model"].pop("backbone")
        assert set(backbone) == {"type", "arch", "out_indices", "init_cfg"}
    assert len(set(inputs)) == 4  # those of S0 and S1 are equal
    first, *others = configs.values()
    assert all(other == first for other in others)
    assert first["optim_wrapper"] == load_config(path).to_dict()["optim_wrapper"]
    assert first["randomness"] == {"seed": 3}


def test_the_learning_rate_rises_and_falls_within_the_steps() -> None:
    for steps, warm_up in ((100, 40), (10, 5)):
        rising, falling = compared(SEGMENTOR, "emo", steps).param_scheduler
        assert (rising.begin, rising.end) == (0, warm_up)
        assert (falling.begin, falling.end) == (warm_up, steps)


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        (dict(type="CARETransformer", arch="s0"), True),
        (dict(type="MobileViG", arch="ti"), True),
        (dict(type="TimmBackbone", arch="efficientformerv2_s0"), True),
        (dict(type="TimmBackbone", arch="convnext_atto"), True),
        (dict(type="EMO", arch="1m"), False),
    ],
    ids=lambda value: value["arch"] if isinstance(value, dict) else "",
)
def test_layer_scales_and_nothing_else_get_the_value(config: dict, scales: bool) -> None:
    torch.manual_seed(0)
    backbone = MODELS.build(config)
    before = {name: value.clone() for name, value in backbone.named_parameters()}
    LayerScale(0.37)(backbone)
    changed = {name for name, value in backbone.named_parameters() if (value != before[name]).any()}
    assert all((backbone.get_parameter(name) == torch.tensor(0.37)).all() for name in changed)
    assert changed == {name for name in before if name.endswith(NAMES)}
    assert bool(changed) is scales


def test_a_comparison_continues_and_prints_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "tiny.py").write_text(
        f"_base_ = {str(REPOSITORY / 'configs/shapes/semfpn_care_s0_shapes.py')!r}\n"
        "small = dict(draw=dict(num_train=6, num_val=2, size=96))\n"
        "loader = dict(num_workers=0, persistent_workers=False, dataset=small)\n"
        "train_dataloader = dict(batch_size=2, **loader)\n"
        "val_dataloader = loader\n"
    )
    monkeypatch.chdir(tmp_path)
    options = ("tiny.py", "--steps", 2, "--work-dir", "runs", "--markdown")
    tool.call("compare_backbones", *options, "--backbones", "emo:1m")
    capfd.readouterr()
    run = finished_run(tmp_path / "runs" / "emo_1m_seed0", 2)
    assert run is not None
    assert run.train["cpu_time"][-1][1] > 0
    assert finished_run(tmp_path / "runs" / "emo_1m_seed0", 3) is None

    tool.call("compare_backbones", *options, "--backbones", "emo:1m", "care:s0", "--table-only")
    printed = capfd.readouterr().out
    emo, care = printed.splitlines()[-2:]
    assert emo.startswith("| emo:1m | 1.") and f"| {run.val['mIoU'][-1][1]:.1f} |" in emo
    assert care.split(" | ")[2] == "not finished"
    assert "Iter(train)" not in printed, "a finished run is not trained again"
    assert rows({"emo:1m": [run, run]}, {"emo:1m": 10**6})[1][1] == "1.00 M"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--backbones", "emmo"), "'emmo' is unknown"),
        (("--backbones", "emo:9m"), "emo has 1m, 2m, 5m"),
        (("--steps", 1), "--steps 1: must be at least 2"),
    ],
)
def test_bad_names_are_refused_before_a_run(options, part, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert part in tool.refusal(capsys, "compare_backbones", SEGMENTOR, *options)
    assert not list(tmp_path.iterdir())
