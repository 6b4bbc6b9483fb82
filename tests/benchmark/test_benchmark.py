"""The command measures, prints and writes; what cannot run gets one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tool


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
    assert written["machine"]["gemm_gmacs_per_s"] > 1
    assert plot.read_bytes().startswith(b"\x89PNG")

    line = tool.refusal(capsys, "benchmark", *options, *backends, "--out", out)
    assert f"{out}: exists already" in line
