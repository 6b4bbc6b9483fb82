"""The page of a report: what it shows, and that it needs nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import tool
from pages import Page
from report.conftest import write_session

from care_mm.report import read_run, write_report
from care_mm.report.worst import Judgement

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def test_page_is_complete_and_shows_what_matters(work_dir: Path, judgement: Judgement) -> None:
    write_report(read_run(work_dir), judgement, work_dir / "report.html")
    page = Page(work_dir / "report.html")
    assert page.images == [(60, 40)] * 6
    assert page.tags["svg"] == 3, "losses, validation, learning rate"
    for text in (
        "best bbox_mAP 0.3 epoch 2: epoch_2.pth",
        "41 min 0 s",
        "5 of 50 validation images, evenly spaced",
        "0 & <more>.jpg",
        "<data> & more",
        "4 on each of 2",
        "AdamW, lr 0.0002",
        "random weights",
        "PyTorch 2.11.0+cu130",
        "<ball>",
        "0.29",
    ):
        assert text in page.text, text


def test_same_run_gives_the_same_bytes(work_dir: Path, judgement: Judgement) -> None:
    files = [work_dir / name for name in ("one.html", "two.html")]
    for file in files:
        write_report(read_run(work_dir), judgement, file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_run_without_validation_has_its_losses(tmp_path: Path) -> None:
    write_session(tmp_path, 1, range(1, 4), range(0))
    write_report(read_run(tmp_path), Judgement(), tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "loss 0.75" in page.text and page.tags["svg"] == 2 and not page.images


def test_no_other_file_is_overwritten(work_dir: Path, capsys) -> None:
    file = work_dir / "report.html"
    tool.call("report", work_dir, "--no-images")
    first = file.read_text()
    tool.call("report", work_dir, "--no-images")  # an older report is replaced
    assert file.read_text() == first
    file.write_text("<html>mine</html>")
    assert "is not a report of care_mm" in tool.refusal(capsys, "report", work_dir, "--no-images")
    assert file.read_text() == "<html>mine</html>"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH to open the page in")
def test_page_opens_in_a_browser(work_dir: Path, judgement: Judgement, tmp_path: Path) -> None:
    """The page has no errors and requests nothing, and a narrow window needs no scrolling."""
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
    width, window, broken, requests = map(
        int, re.search(r"<title>([\d ]+)</title>", done.stdout)[1].split()
    )
    assert width <= window and not broken and not requests
