"""Curves of several runs in one figure."""

from __future__ import annotations

from pathlib import Path

import pytest
import tool
from PIL import Image
from report.conftest import write_session

from care_mm.errors import InputError
from care_mm.report.comparison import charts
from care_mm.report.history import read_run


@pytest.fixture
def seeds(tmp_path: Path) -> list[Path]:
    """Write two finished runs."""
    for i in range(2):
        write_session(tmp_path / f"seed{i}", 1, range(1, 31), range(1, 4), drop=i)
    return [tmp_path / f"seed{i}" for i in range(2)]


def test_each_run_has_a_curve_in_the_charts_of_loss_and_metric(seeds: list[Path]) -> None:
    loss, metric = charts([read_run(folder) for folder in seeds])
    assert (loss.title, loss.x_label) == ("Training loss", "iteration")
    assert (metric.title, metric.x_label) == ("Validation, box AP", "epoch")
    assert [*loss.curves] == [*metric.curves] == ["seed0", "seed1"]
    assert loss.curves["seed0"][0] == (1, 1.5) and loss.curves["seed1"][0] == (1, 0.5)
    assert dict(metric.curves["seed0"]) == pytest.approx({1: 20.0, 2: 30.0, 3: 20.0})


def test_runs_that_share_no_axis_or_name_are_refused(seeds: list[Path]) -> None:
    runs = [read_run(folder) for folder in seeds]
    with pytest.raises(InputError, match="seed0: two runs have this name"):
        charts([runs[0], runs[0]])
    runs[1].by_epoch = False
    with pytest.raises(InputError, match="seed1 counts in iterations"):
        charts(runs)


def test_the_command_draws_them_and_keeps_other_files(
    seeds: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "figures" / "curves.png"
    tool.call("report", *seeds, "--plot", file)
    assert Image.open(file).size[0] > 500
    assert not list(tmp_path.rglob("*.html"))
    content = file.read_bytes()
    assert "exists" in tool.refusal(capsys, "report", *seeds, "--plot", file)
    assert file.read_bytes() == content
    line = tool.refusal(capsys, "report", *seeds, "--plot", tmp_path / "curves.pngg")
    assert "curves.pngg: the name must end in the format of the figure" in line
    assert "give --plot FILE.png" in tool.refusal(capsys, "report", *seeds)
