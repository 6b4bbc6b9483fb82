"""The curves of a run, as SVG and PNG."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from care_mm.report.curves import (
    MAX_POINTS,
    PROPERTIES,
    Chart,
    charts_of,
    draw_charts,
    number,
    short_names,
    to_svg,
)

LONG = [(i, 100.0 if i == 0 else float("nan") if i == 7 else 1.0) for i in range(9000)]


def axes_of(charts: list[Chart]) -> list:
    figure = draw_charts(charts)
    figure.canvas.draw()
    return figure.axes


def test_charts_show_what_was_logged_and_the_main_curve_first() -> None:
    train = {"loss_cls": [(1, 0.5)], "lr": [(1, 0.1)], "loss": [(1, 2.0)], "grad_norm": [(1, 3.0)]}
    val = {"coco/bbox_mAP_50": [(1, 0.4)], "coco/bbox_mAP_s": [(1, 0.1)], "coco/bbox_mAP": [(1, 0)]}
    charts = charts_of(train, val, "epoch", "coco/bbox_mAP")
    assert [(chart.title, chart.x_label) for chart in charts] == [
        ("Losses", "iteration"),
        ("Validation", "epoch"),
        ("Learning rate", "iteration"),
        ("Gradient norm", "iteration"),
    ]
    assert list(charts[0].curves) == ["loss", "loss_cls"]
    assert list(charts[1].curves) == ["coco/bbox_mAP", "coco/bbox_mAP_50"]


def test_curves_without_a_finite_value_are_left_out() -> None:
    train = {"loss": LONG, "loss_a": [], "loss_b": [(1, float("nan"))]}
    (chart,) = charts_of(train, {"mIoU": [(1, float("inf"))]}, "epoch", "mIoU")
    assert list(chart.curves) == ["loss"]
    assert len(chart.curves["loss"]) == len(LONG) - 1


def test_one_high_value_at_the_start_does_not_flatten_a_long_curve() -> None:
    charts = charts_of({"loss": LONG, "loss_flat": [(4000, 0.5)]}, {}, "epoch", None)
    (axes,) = axes_of(charts)
    assert 1 < axes.get_ylim()[1] < 10 and axes.get_ylim()[0] == 0
    assert [len(line.get_xdata()) for line in axes.lines] == [MAX_POINTS, 1]


def test_legend_names_all_curves_and_their_last_values() -> None:
    curves = {f"loss_{i}": [(1, 2.0), (2, 0.123456)] for i in range(12)}
    (chart,) = charts_of(curves, {}, "epoch", None)
    svg = to_svg(chart)
    assert [f"loss_{i}  0.1235" in svg for i in range(12)] == [True] * 12


@pytest.mark.parametrize(
    ("metrics", "short"),
    [
        (["coco/bbox_mAP", "coco/segm_mAP_50"], ["bbox_mAP", "segm_mAP_50"]),
        (["mIoU", "aAcc"], ["mIoU", "aAcc"]),
        (["accuracy/top1", "accuracy/top5"], ["top1", "top5"]),
        (["a/mAP", "b/mAP", "b/AP50"], ["a/mAP", "b/mAP", "AP50"]),
    ],
)
def test_metrics_lose_their_prefix_but_not_what_tells_them_apart(
    metrics: list[str], short: list[str]
) -> None:
    assert list(short_names(metrics).values()) == short


def test_svg_takes_its_colours_from_the_page_and_stands_alone() -> None:
    charts = charts_of(
        {f"loss_{i}": [(1, 1.0 + i), (2, 2.0)] for i in range(8)} | {"lr": [(1, 0.1), (2, 0.2)]},
        {"a < b & c": [(1, 0.5)]},
        "epoch",
        None,
    )
    images = [to_svg(chart) for chart in charts]
    for svg in images:
        assert not any(colour in svg for colour in PROPERTIES), "a fixed colour in dark mode"
        assert "<style" not in svg and "://" not in svg and "<?xml" not in svg
        namespace = 'xmlns:xlink="http://www.w3.org/1999/xlink" '
        root = ElementTree.fromstring(svg.replace("<svg ", f"<svg {namespace}", 1))
        assert root.get("role") == "img" and " by " in root.get("aria-label")
    identifiers = [re.findall(r' id="([^"]+)"', svg) for svg in images]
    assert len(set().union(*identifiers)) == sum(map(len, identifiers))
    for svg, names in zip(images, identifiers, strict=True):
        assert set(re.findall(r"#([\w]+)", svg)) == set(names)


def test_svg_of_the_same_curves_is_the_same() -> None:
    (chart,) = charts_of({"loss": LONG}, {}, "epoch", None)
    assert to_svg(chart) == to_svg(chart) and len(to_svg(chart)) < 20_000


def test_png_shows_all_charts(tmp_path: Path) -> None:
    points = [(1, 0.1), (2, 0.2)]
    charts = charts_of({"loss": points, "lr": points}, {"mIoU": points}, "validation", "mIoU")
    draw_charts(charts, "name").savefig(tmp_path / "curves.png", dpi=50)
    drawn = np.asarray(Image.open(tmp_path / "curves.png").convert("L"))
    half = [side // 2 for side in drawn.shape]
    quarters = [drawn[: half[0], : half[1]], drawn[: half[0], half[1] :], drawn[half[0] :]]
    assert all(quarter.min() < 128 for quarter in quarters)


def test_numbers_have_four_digits() -> None:
    assert [number(v) for v in (0.0, 0.123456, 41.234567, 2e-5)] == [
        "0",
        "0.1235",
        "41.23",
        "2.0e-05",
    ]
