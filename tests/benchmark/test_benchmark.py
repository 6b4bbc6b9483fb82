"""The benchmark measures what it says: ratios, floors, growth, and one line for what cannot run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tool
import torch

from care_mm.benchmark import models, tables
from care_mm.benchmark.backends import Setting, prepare
from care_mm.benchmark.measure import Result, growth, over_floor
from care_mm.benchmark.operators import profile
from care_mm.benchmark.worker import GEMM_SIZE, Job
from care_mm.errors import InputError


def result(
    subject: str = "care_s0",
    seconds: tuple[float, ...] = (0.01,),
    backend: str = "deploy",
    shape: tuple[int, int] = (64, 64),
    memory: int = 0,
) -> Result:
    """A result of one run a round."""
    job = Job(subject, "backbone", shape, 1, Setting(backend))
    return Result(job, tuple((s,) for s in seconds), memory)


def number_of_norms(model: torch.nn.Module) -> int:
    return sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def test_ratios_are_of_the_same_turn() -> None:
    """The machine slows down threefold half way: the ratio stays."""
    fast, slow = result(seconds=(1, 1, 3, 3, 3)), result(seconds=(2, 2, 6, 6, 6))
    assert slow.ratio(fast) == 2
    assert slow.milliseconds() == 6000


def test_floor_is_the_multiply_adds_at_the_rate_of_a_matrix_product() -> None:
    gemm = result("gemm", seconds=(0.5, 0.5))
    macs = models.macs("care_s0", "backbone", (64, 64))
    at_the_floor = 0.5 * macs / GEMM_SIZE**3
    assert over_floor(result(seconds=(2 * at_the_floor,) * 2), gemm) == pytest.approx(2)


def test_multiply_adds_are_the_published_ones() -> None:
    macs = models.macs("care_s0", "classifier", (224, 224))
    assert macs / 1e9 == pytest.approx(0.7206, rel=4e-3)


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_growth_is_the_exponent_against_pixels(exponent: float) -> None:
    sides = (64, 128, 256, 512)
    results = [
        result(seconds=(1e-9 * (s * s) ** exponent,), shape=(s, s), memory=10**9 + 40 * s * s)
        for s in sides
    ]
    assert growth(results) == pytest.approx(exponent)
    assert growth(results, "memory") == pytest.approx(1.0)


def test_peers_are_compared_each_in_its_faster_backend() -> None:
    table = tables.against(
        [
            result("care_s0", (0.030, 0.09), "onnxruntime"),
            result("care_s0", (0.010, 0.03), "openvino"),
            result("resnet50", (0.020, 0.06), "onnxruntime"),
            result("resnet50", (0.040, 0.12), "openvino"),
        ]
    )
    assert table == [["over", "resnet50"], ["care_s0", "0.500"]]


def test_windows_are_laid_out_for_the_size() -> None:
    model = models.build("swin_tiny_patch4_window7_224", "backbone", (64, 96))
    shapes = [tuple(x.shape[1:3]) for x in model(torch.zeros(1, 3, 64, 96))]  # channels last
    assert shapes == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("name", ["care_s0", "repvit_m0_9"])
def test_deployed_subjects_compute_the_same(name: str) -> None:
    model = models.build(name, "backbone")
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(x)
        assert number_of_norms(model)
        deployed = models.deploy(model)
        assert not number_of_norms(deployed)
        assert [tuple(y.shape[2:]) for y in expected] == [(16, 24), (8, 12), (4, 6), (2, 3)]
        for out, reference in zip(deployed(x), expected, strict=True):
            assert (out - reference).abs().max() <= 1e-4 * reference.abs().max()


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_training_step_reaches_every_parameter(channels_last: bool) -> None:
    model = models.build("care_s0", "backbone")
    reached = set()
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: reached.add(name))
    setting = Setting("eager", train=True, channels_last=channels_last)
    prepare(model, torch.rand(2, 3, 64, 64), setting)()
    assert reached == {name for name, _ in model.named_parameters()}
    with pytest.raises(InputError, match="backend deploy: does not train"):
        prepare(model, torch.rand(2, 3, 64, 64), Setting("deploy", train=True))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="care_s3: neither one of care_s0, care_s1, care_s2"):
        models.build("care_s3", "classifier")
    with pytest.raises(InputError, match="resnet50: a detector is named by its config"):
        models.build("resnet50", "detector")


def test_command_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out, picture = tmp_path / "b.json", tmp_path / "b.png"
    options = ("--what", "backbone", "--arch", "s0", "--shape", "64", "96", "--threads", 1)
    backends = ("--backends", "baseline", "deploy", "cudagraph", "--rounds", 2)
    tool.call("benchmark", *options, *backends, "--out", out, "--plot", picture)

    printed = capsys.readouterr().out
    assert "needs --device cuda" in printed
    written = json.loads(out.read_text())
    baseline, deploy, refused = written["results"]
    assert baseline["over_baseline"] == 1
    assert 0 < deploy["p10_ms"] <= deploy["median_ms"] <= deploy["p90_ms"]
    assert deploy["images_per_s"] == pytest.approx(1e3 / deploy["median_ms"])
    assert deploy["peak_mib"] > 10 and deploy["over_gemm_floor"] > 1
    assert "cuda" in refused["error"]
    assert written["machine"]["gemm_gmacs_per_s"] > 1
    assert picture.read_bytes().startswith(b"\x89PNG")

    line = tool.refusal(capsys, "benchmark", *options, *backends, "--out", out)
    assert f"{out}: exists already" in line


def test_picture_marks_the_front(tmp_path: Path) -> None:
    """A slower and worse model is drawn but not joined; the slower backend is not drawn."""
    records = tables.summary(
        [
            result("care_s0", (0.010,), "openvino"),
            result("care_s0", (0.020,), "deploy"),
            result("resnet50", (0.040,), "openvino"),
            result("care_s1", (0.015,), "openvino"),
        ],
        result("gemm"),
        result("copy"),
    )
    points, front = tables.points(records)
    assert [name for _, _, name in points] == ["care_s0", "care_s1", "resnet50"]
    assert [ms for ms, _ in front] == pytest.approx([10, 15])


@pytest.mark.parametrize(
    ("backend", "kind"), [("deploy", "aten::convolution"), ("onnxruntime", "Conv")]
)
def test_profile_counts_every_convolution(backend: str, kind: str) -> None:
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime")
    layers = [layer for _ in range(3) for layer in (torch.nn.Conv2d(3, 3, 3), torch.nn.Softmax(1))]
    model = torch.nn.Sequential(*layers).eval()
    found = profile(model, torch.rand(1, 3, 64, 96), Setting(backend), runs=2)
    assert {o.kind: o.number for o in found}[kind] == 3
    assert [o.ms for o in found] == sorted((o.ms for o in found), reverse=True)


def test_profiler_of_a_compiled_model_is_refused() -> None:
    with pytest.raises(InputError, match="backend compile: eager, deploy, onnxruntime, openvino"):
        profile(torch.nn.Identity(), torch.rand(1, 3, 64, 64), Setting("compile"), runs=1)
