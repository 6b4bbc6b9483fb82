"""Tables and plots show the fastest backend of each model."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from benchmark.conftest import result
from matplotlib.text import Text

from care_mm.benchmark import tables


def test_peers_are_compared_each_in_its_faster_backend() -> None:
    ratios = tables.ratios(
        [
            result("care_s0", (0.030, 0.09), "onnxruntime"),
            result("care_s0", (0.010, 0.03), "openvino"),
            result("resnet50", (0.020, 0.06), "onnxruntime"),
            result("resnet50", (0.040, 0.12), "openvino"),
        ],
        ["resnet50"],
    )
    assert tables.against(ratios) == [["over", "threads", "resnet50"], ["care_s0", "", "0.500"]]


def test_ratios_are_of_the_same_number_of_threads() -> None:
    ratios = tables.ratios(
        [
            result("mmdet::a/peer.py", (0.040, 0.04), threads=1),
            result("mmdet::a/peer.py", (0.010, 0.01), threads=2),
            result("configs/ours.py", (0.020, 0.02), threads=1),
            result("configs/ours.py", (0.015, 0.015), threads=2),
        ],
        ["mmdet::a/peer.py"],
    )
    assert tables.against(ratios) == [
        ["over", "threads", "peer"],
        ["ours", "1", "0.500"],
        ["ours", "2", "1.500"],
    ]


def test_the_baseline_is_of_the_same_input() -> None:
    records = tables.summary(
        [
            result(seconds=(0.08,), backend="baseline", shape=(128, 128)),
            result(seconds=(0.04,), backend="baseline"),
            result(seconds=(0.01,)),
        ],
        [result("gemm")],
    )
    assert [record["over_baseline"] for record in records] == pytest.approx([1, 1, 0.25])


def test_the_plot_marks_the_front() -> None:
    """A slower and worse model is drawn but not joined; the slower backend is not drawn."""
    records = tables.summary(
        [
            result("care_s0", (0.010,), "openvino"),
            result("care_s0", (0.020,), "deploy"),
            result("resnet50", (0.040,), "openvino"),
            result("care_s1", (0.015,), "openvino"),
        ],
        [result("gemm")],
    )
    points, front = tables.points(records)
    assert [name for _, _, name in points] == ["care_s0", "care_s1", "resnet50"]
    assert [ms for ms, _ in front] == pytest.approx([10, 15])


@pytest.mark.parametrize("slowest", ["care_s2", "swin_tiny_patch4_window7_224"])
def test_labels_of_the_plot_are_inside_its_frame(tmp_path: Path, slowest: str) -> None:
    results = [result("efficientformerv2_s1", (0.02,)), result(slowest, (0.052,))]
    figure = tables.plot(tables.summary(results, [result("gemm")]), "title")
    figure.savefig(tmp_path / "plot.png")
    (axes,) = figure.axes
    for label in axes.texts:
        extent = label.get_window_extent()
        assert axes.bbox.x0 < extent.x0 and extent.x1 < axes.bbox.x1, label.get_text()
        assert axes.bbox.y0 < extent.y0 and extent.y1 < axes.bbox.y1, label.get_text()


@pytest.mark.parametrize(
    "models",
    [
        [("repvit_m1_0", 20, 80.0), ("care_s1", 20.2, 80.1), ("repvit_m0_9", 19.9, 79.1)],
        [(f"model_{n}", 20 * 1.02**n, 80.0) for n in range(7)],
    ],
)
def test_labels_of_models_with_similar_figures_do_not_overlap(models: list[tuple]) -> None:
    far = [("care_s0", 5, 72.0), ("care_s2", 34, 82.1)]
    keys = ("model", "median_ms", "published_top1")
    records = [dict(zip(keys, model, strict=True), backend="deploy") for model in models + far]
    figure = tables.plot(records, "title")
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(label) for label in figure.axes[0].texts]
    assert len(boxes) == len(records)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_models_without_a_published_accuracy_get_bars(tmp_path: Path) -> None:
    results = [result("a_detector", (0.02,)), result("its_peer", (0.05,), "openvino")]
    records = tables.summary(results, [])
    figure = tables.plot(records, "title", ["its_peer"])
    figure.savefig(tmp_path / "plot.png")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([50, 20])
    assert len({bar.get_facecolor() for bar in axes.patches}) == 2
