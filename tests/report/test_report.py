"""The page about a run: what it reads from a work dir, what it says, and what it must not do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import tool
from pages import Page
from report.conftest import write_life

from care_mm.errors import InputError
from care_mm.report import read_run, write_report
from care_mm.report.curves import HEIGHT, LEFT, MOST_POINTS, WIDTH, line_chart
from care_mm.report.settings import settings
from care_mm.report.worst import Judgement

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def test_what_a_resumed_run_repeats_counts_once(work_dir: Path) -> None:
    run = read_run(work_dir)
    steps = [step for step, _ in run.train["loss"]]
    assert steps == list(range(1, 31))
    assert dict(run.train["loss"])[20] == pytest.approx(3 / 21)
    assert dict(run.train["loss"])[22] == pytest.approx(3 / 23 - 0.01), "of the first life"
    assert [step for step, _ in run.val["coco/bbox_mAP"]] == [1, 2, 3]
    assert "time" not in run.train and "coco/bbox_mAP_l" not in run.val
    assert run.busy.total_seconds() == 2 * (20 * 60 + 30)
    assert run.environment["PyTorch"] == "2.11.0+cu130"


def test_resumed_run_still_started_from_where_it_did(work_dir: Path) -> None:
    """A resumption's own config names the checkpoint that it goes on from."""
    first, last = sorted(work_dir.glob("*/vis_data/config.py"))
    first.write_text(first.read_text() + "load_from = 'coco.pth'\n")
    last.write_text(last.read_text() + "load_from = 'epoch_2.pth'\n")
    assert dict(settings(read_run(work_dir)))["starts from"] == "coco.pth"


def test_best_checkpoint_is_that_of_the_main_metric(work_dir: Path) -> None:
    run = read_run(work_dir)
    assert run.main_metric == "coco/bbox_mAP"
    assert run.best(run.main_metric) == (2, pytest.approx(0.3))
    assert run.checkpoint(2).name == "epoch_2.pth"
    (work_dir / "best_coco_bbox_mAP_epoch_2.pth").write_bytes(b"weights")
    assert run.checkpoint(2).name == "best_coco_bbox_mAP_epoch_2.pth"
    assert run.checkpoint(3) is None


def test_page_is_whole_and_says_what_matters(work_dir: Path, judgement: Judgement) -> None:
    write_report(read_run(work_dir), judgement, work_dir / "report.html")
    page = Page(work_dir / "report.html")
    assert page.images == [(60, 40)] * 6
    assert page.tags["svg"] == 3, "losses, validation, learning rate"
    for said in (
        "best coco/bbox_mAP 0.3 epoch 2: epoch_2.pth",
        "41 min 0 s",
        "5 validation images that were looked at, evenly spaced over 50",
        "0 & <more>.jpg",
        "<data> & more",
        "4 on each of 2",
        "AdamW, lr 0.0002",
        "random weights",
        "PyTorch 2.11.0+cu130",
        "<ball>",
        "0.29",
    ):
        assert said in page.text, said


def test_run_without_validation_has_its_losses(tmp_path: Path) -> None:
    write_life(tmp_path, 1, range(1, 4), range(0))
    write_report(read_run(tmp_path), Judgement(), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "loss 0.75" in page.text and page.tags["svg"] == 2 and not page.images


def test_no_other_file_is_written_over(work_dir: Path, capsys) -> None:
    file = work_dir / "report.html"
    tool.call("report", work_dir, "--no-images")
    first = file.read_text()
    tool.call("report", work_dir, "--no-images")  # of ours: made anew
    assert file.read_text() == first
    file.write_text("<html>mine</html>")
    assert "is no report of ours" in tool.refusal(capsys, "report", work_dir, "--no-images")
    assert file.read_text() == "<html>mine</html>"


@pytest.mark.parametrize("name", ["gone", "empty"])
def test_folder_without_a_run_is_refused(tmp_path: Path, capsys, name: str) -> None:
    (tmp_path / "empty").mkdir()
    wanted = {"gone": "no such folder", "empty": "holds no run"}[name]
    line = tool.refusal(capsys, "report", tmp_path / name)
    assert wanted in line and str(tmp_path / name) in line


def test_run_without_checkpoints_is_refused(work_dir: Path, capsys) -> None:
    (work_dir / "epoch_2.pth").unlink()
    assert "holds no checkpoint" in tool.refusal(capsys, "report", work_dir)


def test_config_that_does_not_parse_is_named(work_dir: Path) -> None:
    for file in work_dir.glob("*/vis_data/config.py"):
        file.write_text("model = dict(")
    with pytest.raises(InputError, match=r"config\.py"):
        read_run(work_dir)


def test_charts_stay_inside_and_small() -> None:
    curve = [(i, 100.0 if i == 0 else float("nan") if i == 7 else 1.0) for i in range(9000)]
    chart = line_chart("Losses", "iteration", {"loss": curve, "flat": [(4000, 0.5)]})
    points = [tuple(map(float, p.split(","))) for p in chart.lines[0].points.split()]
    assert MOST_POINTS - 2 <= len(points) <= MOST_POINTS
    assert all(LEFT <= x <= WIDTH for x, _ in points) and max(y for _, y in points) <= HEIGHT
    assert chart.scale[3] < 10, "one value from the beginning makes the rest flat"
    assert line_chart("none", "epoch", {"a": [], "b": [(1, float("nan"))]}) is None


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH to open the page in")
def test_page_opens_in_a_browser(work_dir: Path, judgement: Judgement, tmp_path: Path) -> None:
    """Without errors or requests, and nothing sticks out of a narrow window."""
    file = tmp_path / "report.html"
    write_report(read_run(work_dir), judgement, file)
    probe = (
        "<script>document.title = [document.documentElement.scrollWidth, innerWidth, "
        "[...document.images].filter(image => !image.naturalWidth).length, "
        "performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length,"
        "].join(' ')</script></body>"
    )
    file.write_text(file.read_text().replace("</body>", probe))
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    flags += " --window-size=500,900 --enable-logging=stderr --dump-dom"
    done = subprocess.run(
        [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr, done.stderr
    wide, window, broken, requests = map(
        int, re.search(r"<title>([\d ]+)</title>", done.stdout)[1].split()
    )
    assert wide <= window and not broken and not requests
