"""The command measures, prints and writes; bad input and what cannot run get one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tool

from care_mm.benchmark import models
from care_mm.benchmark.comparisons import COMPARISONS

SEGMENTOR = "care_mm::shapes/semfpn_care_s0_shapes.py"
PEER = "mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py"
TINY = ("--shape", 64, 96, "--threads", 1, "--rounds", 1)


def test_the_command_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out, plot = tmp_path / "b.json", tmp_path / "b.png"
    options = ("--what", "backbone", "--arch", "s0", "--shape", "64", "96", "--threads", 1)
    backends = ("--backends", "baseline", "deploy", "cudagraph", "--rounds", 2)
    tool.call("benchmark", *options, *backends, "--out", out, "--plot", plot)

    assert "needs --device cuda" in capsys.readouterr().out
    written = json.loads(out.read_text())
    baseline, deploy, refused = written["results"]
    assert baseline["over_baseline"] == 1
    assert 0 < deploy["p10_ms"] <= deploy["median_ms"] <= deploy["p90_ms"]
    assert deploy["images_per_s"] == pytest.approx(1e3 / deploy["median_ms"])
    assert deploy["peak_mib"] > 10 and deploy["over_gemm_floor"] > 1
    assert "cuda" in refused["error"]
    (limits,) = written["machine"]["limits"]
    assert limits["threads"] == 1 and limits["gemm_gmacs_per_s"] > 1
    assert plot.read_bytes().startswith(b"\x89PNG")

    line = tool.refusal(capsys, "benchmark", *options, *backends, "--out", out)
    assert f"{out}: exists already" in line


def test_whole_models_and_their_files_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")
    out, plot = tmp_path / "b.json", tmp_path / "b.png"
    subjects = ("--models", SEGMENTOR, "--peers", PEER, "--num-classes", 6)
    runtime = ("--backends", "onnxruntime", "--files", tmp_path)
    tool.call("benchmark", *subjects, *runtime, *TINY, "--out", out, "--plot", plot)
    written = json.loads(out.read_text())
    ours, peer = written["results"]
    assert ours["model"] == "semfpn_care_s0_shapes" and ours["gmacs"] > 0
    (ratio,) = written["ratios"]
    assert ratio["peer"] == peer["model"]
    assert ratio["ratio"] == pytest.approx(ours["median_ms"] / peer["median_ms"])
    assert plot.read_bytes().startswith(b"\x89PNG")

    ours_file, peer_file = sorted(
        tmp_path.glob("*.onnx"), key=lambda file: "semfpn" not in file.name
    )
    written_at = peer_file.stat().st_mtime_ns
    ours_file.unlink()
    files = ("--models", peer_file, "--rounds", 1, "--threads", 1)  # the size is that of the file
    tool.call("benchmark", *files, "--out", tmp_path / "f.json")
    (record,) = json.loads((tmp_path / "f.json").read_text())["results"]
    assert record["shape"] == [64, 96] and record["backend"] == "onnxruntime"

    tool.call("benchmark", *subjects, *runtime, *TINY)
    assert ours_file.exists() and peer_file.stat().st_mtime_ns == written_at  # reused
    capsys.readouterr()
    tool.call("profile_operators", peer_file, "--runs", 1)
    assert "Conv" in capsys.readouterr().out

    line = tool.refusal(capsys, "benchmark", *files, "--shape", 96, 64)
    assert "accepts images of 64x96 (HxW) only, not 96x64" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "configs/nothing.py"], "config configs/nothing.py: no such file"),
        (["--models", "mmdet::yolox/yolox_tny_8xb8-300e_coco.py"], "did you mean mmdet::yolox/yol"),
        (["--models", SEGMENTOR, "--peers", SEGMENTOR], "two models are called semfpn_care_s0_sh"),
        (["--models", "none.onnx"], "none.onnx: no such file"),
        (["--arch", "s0", "--threads", "4096"], "--threads 4096: there are"),
        (["--arch", "s0", "--plot", "figure"], "--plot figure: the name must end in the format"),
        (["--arch", "s0", "--files", "nowhere"], "--files nowhere: there is no such folder"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(
    options: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert message in tool.refusal(capsys, "benchmark", *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "mmdet::detr/detr_r50_8xb2-150e_coco.py"], "export supports"),
        (["--models", SEGMENTOR, "--shape", "16", "16"], "both sides need at least 32 pixels"),
        (["--models", SEGMENTOR, "--dtype", "fp16"], "is measured in fp32 on the CPU"),
        (["--models", SEGMENTOR, "--what", "raw-maps"], "raw-maps is for one-stage detectors"),
    ],
)
def test_models_that_cannot_be_exported_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")
    line = tool.refusal(capsys, "benchmark", *TINY, "--backends", "onnxruntime", *options)
    assert "nothing ran: " in line and message in line


@pytest.mark.parametrize("table", COMPARISONS)
def test_the_models_of_a_table_exist(table: str) -> None:
    comparison = COMPARISONS[table]
    names = (*comparison.models, *comparison.peers)
    assert len({models.label(name) for name in names}) == len(names)
    for name in names:
        assert models.build(name, "model", classes=comparison.classes).exported == "model"
