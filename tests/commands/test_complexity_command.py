"""tools/complexity.py: tables on stdout and nothing else, one line for bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import tool
from commands.conftest import REPOSITORY, Run

CONFIGS = REPOSITORY / "configs"
CLASSIFIER = CONFIGS / "care_s0_imagenet.py"


def test_one_config_is_shown_by_its_parts_and_growth(tmp_path: Path, run: Run) -> None:
    process = run("tools/complexity.py", CLASSIFIER, "--sizes", 64, 128, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    title, parts, _, growth = process.stdout.strip().split("\n\n")
    assert title == f"{CLASSIFIER} at 224x224 (HxW)"
    rows = [line.split() for line in parts.splitlines()]
    assert [row[0] for row in rows] == [
        "part",
        "backbone.stem",
        *(f"backbone.stages.{i}" for i in range(4)),
        "head",
        "total",
    ]
    assert rows[-1] == ["total", "7,340,000", "0.7206", "0.7178"]
    _, first, second = (line.split() for line in growth.splitlines())
    assert (first[0], second[0]) == ("64x64", "128x128")
    assert first[2] == second[2]  # GMACs of the backbone per megapixel


def test_several_configs_have_a_row_each(capsys: pytest.CaptureFixture) -> None:
    """Options reach all of them."""
    ablation = CONFIGS / "ablation" / "care_s0_no_memory.py"
    args = ("--shape", 64, 96, "--markdown", "--cfg-options", "model.head.num_classes=10")
    tool.call("complexity", CLASSIFIER, ablation, *args)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.strip().splitlines()]
    assert rows[0] == ["config", "input (HxW)", "parameters", "GMACs", "products alone"]
    assert [row[:2] for row in rows[2:]] == [
        [str(CLASSIFIER), "64x96"],
        [str(ablation), "64x96"],
    ]
    parameters = int(rows[2][2].replace(",", ""))
    assert parameters == 5_285_904 + 2 * (2 * 1024 + 1025 * 10)


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture) -> None:
    line = tool.refusal(capsys, "complexity", CLASSIFIER, "--shape", 16, 64)
    assert "at least 32 pixels" in line
