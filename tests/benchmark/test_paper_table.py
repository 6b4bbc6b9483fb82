"""The table of the paper's systems: counts, rows that fail or are resumed, page and figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tool
from benchmark.conftest import result

from care_mm.benchmark import paper, paper_page
from care_mm.benchmark.measure import Result
from care_mm.benchmark.worker import Job
from care_mm.errors import InputError
from care_mm.peers.published import PUBLISHED
from care_mm.peers.systems import split

HOST = {"cpu": "a CPU", "torch": "2.x", "python": "3.x", "date": "2026-01-01"}
SETTINGS = paper.settings_of(("onnxruntime", "openvino"), [1])
SECONDS = {"care_s0": 0.01, "care_s1": 0.02, "emo:2m": 0.005, "mlla:t": 0.08}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the measuring by times that follow from the model; return the models so far."""
    models: list[str] = []

    def measure(jobs: Sequence[Job], rounds: int, folder: Path | None) -> list[Result]:
        models.append(jobs[0].model)
        times = []
        for job in jobs:
            factor = 5 if job.what == "backbone" else 1
            factor *= 2 if job.setting.backend == "openvino" else 1
            seconds = SECONDS[job.model] * factor
            done = replace(result(), job=job, rounds=((seconds, seconds),) * rounds)
            failed = job.model == "mlla:t" and job.setting.backend == "openvino"
            times.append(replace(done, rounds=(), error="too large") if failed else done)
        return times

    monkeypatch.setattr(paper, "measure", measure)
    return models


def rows_of(file: Path, names: Sequence[str], rounds: int = 2) -> list[paper.Row]:
    *_, rows = paper.measure_rows(names, SETTINGS, rounds, None, file, HOST)
    return rows


@pytest.mark.parametrize("name", ["emo:2m", "mobilevig:ti", "swin:t", "slab-pvt:t"])
def test_counts_are_those_of_the_published_classifiers(name: str) -> None:
    system, size = split(name)
    figures = PUBLISHED[system][size]
    parameters, macs = paper.counts(name)
    assert parameters == figures.parameters
    assert macs / 1e9 == pytest.approx(figures.gmacs, abs=5e-5)


def test_every_system_has_a_row_and_a_published_accuracy() -> None:
    systems = {name.split(":")[0] for name in paper.MODELS if not name.startswith("care_")}
    assert systems == set(PUBLISHED) == set(paper_page.SYSTEMS)
    assert all(paper.published_top1(name) for name in paper.MODELS)
    assert {"care_s0", "care_s1", "care_s2"} < set(paper.MODELS)


def test_a_model_that_fails_costs_its_own_cells_and_is_tried_again(
    measured: list[str], tmp_path: Path
) -> None:
    names = ("care_s1", "mlla:t", "emo:2m")
    rows = rows_of(tmp_path / "rows.json", names)
    _, classifiers, pyramids = paper_page.tables(rows, SETTINGS).values()
    assert classifiers == [
        ["model", "ONNX Runtime", "OpenVINO"],
        ["CARE-S1", "20.0 (1.00)", "40.0 (1.00)"],
        ["MLLA-T", "80.0 (4.00)", ""],
        ["EMO-2M", "5.0 (0.25)", "10.0 (0.25)"],
    ]
    assert [line[1:] for line in pyramids[1:]] == [
        ["100.0", "200.0"],
        ["400.0", ""],
        ["25.0", "50.0"],
    ]
    like_it = {**rows[1], "model": "slab-pvt:t"}
    command = "python tools/benchmark.py --table paper"
    page = paper_page.text([*rows, like_it], SETTINGS, HOST, command, None)
    parts = "model in openvino, threads 1; backbone in openvino, threads 1"
    assert f"\n- MLLA-T, SLAB-PVT-T ({parts}): too large\n" in page

    measured.clear()
    assert rows_of(tmp_path / "rows.json", names) == rows
    assert measured == ["mlla:t"]


def test_an_interrupted_run_keeps_its_rows(measured: list[str], tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    names = ("care_s1", "emo:2m")
    first = next(paper.measure_rows(names, SETTINGS, 2, None, file, HOST))
    assert [row["model"] for row in first] == ["care_s1"]
    assert [row["model"] for row in rows_of(file, names)] == [*names]
    assert measured == [*names]
    with pytest.raises(InputError, match="another value of rounds: name another file"):
        rows_of(file, names, rounds=3)
    file.write_text("[]")
    with pytest.raises(InputError, match="not a file of this table"):
        rows_of(file, names)


def test_the_page_names_machine_and_command_and_explains_figures_that_differ(
    measured: list[str], tmp_path: Path
) -> None:
    rows = rows_of(tmp_path / "rows.json", ("care_s0", "care_s1", "emo:2m"))
    paper_page.write(rows, SETTINGS, HOST, "python the_command", tmp_path / "table.md")
    page = (tmp_path / "table.md").read_text()
    assert "Machine: a CPU, threads: 1." in page and "python the_command" in page
    assert "| CARE-S0<sup>1</sup> | 7.34 |" in page and "| EMO-2M<sup>2</sup> | 2.38 |" in page
    assert "\n1. Second-hand summaries" in page and "\n2. EMO's authors count 439 M" in page
    assert "MobileViG's count" not in page
    assert "(images/table.png)" in page
    assert (tmp_path / "images" / "table.png").stat().st_size > 10_000


def test_the_command_measures_a_model_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--models", "emo:1m", "--backends", "deploy", "--threads", 1, "--rounds", 1)
    tool.call("benchmark", "--table", "paper", *options)
    (row,) = json.loads(Path("work_dirs/paper_table.json").read_text())["rows"]
    assert not row["errors"]
    figures = row["figures"]["deploy, threads 1"]
    assert set(figures) == {"ms", "ratio", "pyramid_ms", "peak_mib"}
    assert all(value > 0 for value in figures.values())
    page = Path("docs/paper_table.md").read_text()
    assert "--table paper --models emo:1m --backends deploy --threads 1 --rounds 1" in page


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--models", "emmo:2m"), "emmo:2m: 'emmo' is unknown"),
        (("--models", "emo:7m"), "emo:7m: emo has the sizes 1m, 2m, 5m"),
        (("--models", "care_s9"), "care_s9"),
        (("--shape", 256, 256, "--batch", 2), "so it has no --shape, --batch"),
        (("--files", "missing"), "--files missing: there is no such folder"),
    ],
)
def test_bad_options_of_the_table_are_refused(options, part, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert part in tool.refusal(capsys, "benchmark", "--table", "paper", *options)
    assert not list(tmp_path.iterdir())
