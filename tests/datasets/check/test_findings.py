"""A report has a summary line, and a line for each kind of problem or note."""

from __future__ import annotations

from care_mm.datasets.check.findings import Findings, Kind, note

GONE = Kind("missing image", "get it")
GRAY = note("grayscale image", "loaded as RGB")


def test_a_report_without_findings_is_ok() -> None:
    assert list(Findings("train", summary="2 images").lines()) == ["train: ok (2 images)"]
    assert list(Findings("train").lines()) == ["train: ok"]


def test_each_kind_has_a_line_with_its_number_and_problems_come_first() -> None:
    findings = Findings("train", summary="9 images")
    findings.add(GRAY, "c.jpg")
    findings.add(GONE, (name for name in ("a.jpg", "b.jpg")))
    findings.add(Kind("empty mask", "draw it"), [])
    assert findings.problems == [GONE]
    assert list(findings.lines()) == [
        "train: 1 problem (9 images)",
        "  2 x missing image, e.g. a.jpg (get it)",
        "  note: 1 x grayscale image: c.jpg (loaded as RGB)",
    ]


def test_more_offenders_have_lines_of_their_own() -> None:
    findings = Findings("val")
    findings.add(GONE, [f"{i}.jpg" for i in range(2000)])
    assert list(findings.lines(show=3))[1:] == [
        "  2,000 x missing image, e.g. 0.jpg (get it)",
        "      1.jpg",
        "      2.jpg",
    ]


def test_unprintable_names_are_escaped() -> None:
    findings = Findings("val")
    findings.add(GONE, "a\n\ud800.jpg")
    assert list(findings.lines())[1] == "  1 x missing image: a\\n\\ud800.jpg (get it)"
