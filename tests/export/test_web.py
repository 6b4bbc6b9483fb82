"""The page of ``--format web`` predicts in a real browser what ``tools/infer.py`` predicts."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tool
import torch
from export.conftest import MakeFile, MakeJob
from export.one_stage_models import build
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import Image

from care_mm.benchmark.browser import BROWSERS, TIMEOUT, Handler, chromium, measure_page, served
from care_mm.config import load_config
from care_mm.datasets.shapes.objects import OBJECTS
from care_mm.errors import InputError
from care_mm.export import compare
from care_mm.export.onnx import PROPERTY
from care_mm.export.pipeline import ExportSettings, export
from care_mm.export.web import runtime_files as runtime
from care_mm.export.web.folder import MODEL, PAGE, Drawing, new_folder, write_page
from care_mm.export.web.preparation import FILTERS, preparation_of
from care_mm.predict import predictor as prediction
from care_mm.predict.predictor import Predictor

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
# The browser resizes by the pipeline's rule, and rounds some pixels to the other neighbour.
LIMITS = dataclasses.replace(compare.LIMITS["fp32"], iou=0.95, score_error=0.01)
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def runtime_files() -> dict[str, Path]:
    try:
        return runtime.runtime_files()
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("no Chromium on this machine")
    with chromium(*CAMERA) as browser:
        yield browser


class OldHandler(Handler):
    """A static server as old ones are: without a type for ``.mjs``."""

    extensions_map = {  # noqa: RUF012
        **Handler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "application/octet-stream",
        ".wasm": "application/wasm",
    }


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[[Path], Any]]:
    """``opened(folder)`` -> the page on a phone; it must not load anything of another server."""
    asked: list[str] = []
    with ExitStack() as stack:

        def serve(folder: Path, script: str = "") -> Any:
            addresses.append(stack.enter_context(served(folder, OldHandler)))
            page = browser.new_page(viewport={"width": 390, "height": 844})
            stack.callback(page.close)
            page.set_default_timeout(TIMEOUT)
            page.add_init_script(script)
            page.on("request", lambda request: asked.append(request.url))
            page.goto(addresses[-1])
            return page

        addresses: list[str] = []
        yield serve
        assert all(url.startswith((*addresses, "blob:", "data:")) for url in asked), asked


def predicted(page: Any, image: Path) -> dict[str, Any]:
    """Give an image to the page, and return its prediction."""
    page.set_input_files("#file", image)
    page.wait_for_function(
        "name => careMM.last?.name === name || !document.getElementById('message').hidden",
        arg=image.name,
    )
    assert page.inner_text("#message") == ""
    return page.evaluate(
        """() => {
            const { scores, shares, classMap, instances, view, backend } = careMM.last;
            return { scores, shares, backend, classMap: classMap && Array.from(classMap),
                rows: Array.from(view.rows), columns: Array.from(view.columns),
                instances: instances?.map(({ label, score, box, mask }) =>
                    ({ label, score, box, mask: mask && Array.from(mask()) })) };
        }"""
    )


def site_of(config: Path, file: Path, out: Path, runtime: dict[str, Path]) -> Predictor:
    """Write the folder for an ONNX file that exists, and return the predictor with that file."""
    settings = load_config(config)
    predictor = Predictor(settings, file, "cpu")
    with new_folder(out) as folder:
        shutil.copy(file, folder / MODEL)
        steps = preparation_of(prediction.test_pipeline(settings))
        drawing = Drawing(predictor.dataset_meta, getattr(predictor.visualizer, "alpha", 0.8))
        write_page(folder, predictor.model, steps, drawing, runtime)
    return predictor


def assert_same_instances(actual: dict[str, Any], sample: Any) -> None:
    """Compare the instances of the page with those of the predictor, in any order."""
    expected, instances = sample.pred_instances, actual["instances"]
    reference = compare.Detections(expected.bboxes, expected.scores, expected.labels)
    candidate = compare.Detections(
        *(torch.tensor([i[key] for i in instances]) for key in ("box", "score", "label"))
    )
    partner = compare.match(reference, candidate, LIMITS)
    assert len(reference) == len(candidate) > 5
    assert float((partner >= 0).float().mean()) > 0.95
    if "masks" in expected:
        masks = np.array([i["mask"] for i in instances], bool)
        masks = masks.reshape(-1, len(actual["rows"]), len(actual["columns"]))
        assert masks.any() and not masks.all()
        found = np.flatnonzero(partner >= 0)
        assert (masks[partner[found]] == np.asarray(expected.masks)[found]).mean() > 0.995


def test_the_command_writes_a_page_that_classifies_like_the_predictor(
    job: MakeJob, tmp_path: Path, image_file: Path, opened, runtime_files
) -> None:
    out = tmp_path / "site"
    tool.call("export", *job("classifier"), "--format", "web", "--out", out)
    page = opened(out)
    predictor = Predictor(load_config(job("classifier")[0]), out / MODEL, "cpu")
    expected = predictor(predictor.read(image_file)).pred_score
    actual = predicted(page, image_file)
    np.testing.assert_allclose(actual["scores"], expected, atol=0.005)
    assert actual["backend"] == "wasm"
    best = page.locator("#results li").first.inner_text()
    assert best.split("\n")[0] == OBJECTS[int(expected.argmax())]
    assert "ms per image" in page.inner_text("#status")
    assert "WebAssembly, 1 thread" in page.inner_text("#status")


def test_the_benchmark_of_a_page_measures_the_browser_next_to_onnxruntime(
    job: MakeJob, exported: MakeFile, tmp_path: Path, browser, runtime_files
) -> None:
    site_of(
        job("classifier")[0], exported("classifier", "c.onnx"), tmp_path / "site", runtime_files
    )
    times = measure_page(browser, tmp_path / "site", rounds=2)
    assert times.size == (64, 64) and times.label == "WebAssembly, 1 thread"
    for page, model, native in zip(times.page, times.browser, times.native, strict=True):
        assert page >= model > 0 and native > 0
    with pytest.raises(InputError, match="not a folder of --format web"):
        measure_page(browser, tmp_path, rounds=2)


def with_labels(file: Path, out: Path) -> Path:
    """Write what ``--argmax`` writes: a segmentor that returns the class of each pixel."""
    model = onnx.load(file)
    (about,) = (entry for entry in model.metadata_props if entry.key == PROPERTY)
    about.value = json.dumps({**json.loads(about.value), "outputs": ["labels"]})
    cast = onnx.helper.make_node("Cast", ["best"], ["labels"], to=onnx.TensorProto.INT32)
    best = onnx.helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0)
    model.graph.node.extend([best, cast])
    del model.graph.output[:]
    labels = onnx.helper.make_tensor_value_info("labels", onnx.TensorProto.INT32, [None] * 3)
    model.graph.output.append(labels)
    onnx.save(model, out)
    return out


@pytest.mark.parametrize("labels", [False, True])
def test_a_class_map_equals_that_of_the_predictor(
    job: MakeJob, exported: MakeFile, tmp_path: Path, image_file, opened, runtime_files, labels
) -> None:
    file = exported("segmentor", "s.onnx")
    file = with_labels(file, tmp_path / "labels.onnx") if labels else file
    predictor = site_of(job("segmentor")[0], file, tmp_path / "site", runtime_files)
    page = opened(tmp_path / "site")
    large = tmp_path / "large.png"  # the page shows 1280 x 873 pixels of it
    Image.open(image_file).resize((1500, 1023)).save(large)
    for image, shape in (large, (873, 1280)), (image_file, (131, 192)):
        sample = predictor(predictor.read(image))
        actual = predicted(page, image)
        shown = np.ix_(actual["rows"], actual["columns"])
        expected = sample.pred_sem_seg.data[0].numpy()[shown]
        labels = np.array(actual["classMap"]).reshape(shape)
        assert len(np.unique(labels)) > 3 and (labels == expected).mean() > 0.99
    shares = predictor.record(sample)["classes"]
    assert page.locator("#results li b").first.inner_text() == max(shares, key=shares.get)


def test_boxes_and_masks_of_a_two_stage_detector_equal_those_of_the_predictor(
    job: MakeJob, exported: MakeFile, tmp_path: Path, image_file: Path, opened, runtime_files
) -> None:
    file = exported("detector", "d.onnx")
    predictor = site_of(job("detector")[0], file, tmp_path / "site", runtime_files)
    page = opened(tmp_path / "site")
    actual = predicted(page, image_file)
    assert_same_instances(actual, predictor(predictor.read(image_file)))
    page.fill("#threshold", "0.95")
    assert page.locator("#results li").count() == 0


@pytest.fixture(scope="module")
def rtmdet_ins(tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    """A config of RTMDet-Ins with a pipeline that resizes and pads, and its ONNX file."""
    folder = tmp_path_factory.mktemp("rtmdet_ins")
    config, model = build("RTMDet-Ins")
    steps = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(96, 96), keep_ratio=True),
        dict(type="Pad", size=(96, 96), pad_val=dict(img=(114, 110, 100))),
        dict(type="PackDetInputs", meta_keys=("ori_shape", "img_shape", "scale_factor")),
    ]
    dataset = dict(type="CocoDataset", metainfo=dict(classes=tuple(OBJECTS)), pipeline=steps)
    lines = {"default_scope": "mmdet", "model": config, "test_dataloader": dict(dataset=dataset)}
    text = "".join(f"{key} = {value!r}\n" for key, value in lines.items())
    (folder / "config.py").write_text(text)
    settings = ExportSettings("onnx", folder / "x.onnx", shape=(96, 96))
    export(model, settings, {"classes": tuple(OBJECTS)})
    return folder / "config.py", folder / "x.onnx"


def test_boxes_and_masks_of_a_one_stage_detector_equal_those_of_the_predictor(
    rtmdet_ins, tmp_path: Path, image_file: Path, opened, runtime_files
) -> None:
    predictor = site_of(*rtmdet_ins, tmp_path / "site", runtime_files)
    page = opened(tmp_path / "site")
    actual = predicted(page, image_file)
    assert_same_instances(actual, predictor(predictor.read(image_file)))


def test_the_page_takes_an_example_a_dropped_file_and_the_camera_and_says_what_is_no_image(
    rtmdet_ins, tmp_path: Path, image_file: Path, opened, runtime_files
) -> None:
    site_of(*rtmdet_ins, tmp_path / "site", runtime_files)
    page = opened(tmp_path / "site")
    page.click("#example:enabled")
    page.wait_for_function("careMM.last?.name === 'example.png'")
    page.evaluate(
        """async () => {
            const blob = await (await fetch("example.png")).blob();
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([blob], "dropped.png"));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer }));
        }"""
    )
    page.wait_for_function("careMM.last?.name === 'dropped.png'")
    (tmp_path / "text.png").write_text("no image")
    page.set_input_files("#file", tmp_path / "text.png")
    page.wait_for_selector("#message:visible")
    assert page.inner_text("#message") == "text.png is not an image that this browser can read."
    page.click("#camera")
    page.wait_for_function("careMM.last?.name === 'camera'")
    assert page.inner_text("#camera") == "Stop" and not page.is_visible("#message")
    page.click("#camera")
    assert page.inner_text("#camera") == "Camera"


def test_a_browser_without_simd_gets_one_sentence(tmp_path: Path, browser, opened) -> None:
    shutil.copytree(PAGE, tmp_path / "site")
    page = opened(tmp_path / "site", "WebAssembly.validate = () => false")
    sentence = "This browser has no WebAssembly SIMD, which the model needs."
    assert page.inner_text("#message") == sentence and not page.is_visible("#status")


def test_the_page_prepares_images_as_the_pipeline_does(
    image_file: Path, tmp_path: Path, opened
) -> None:
    steps = [
        *(
            dict(type="Resize", scale=scale, backend=backend, interpolation=interpolation)
            for backend, interpolation in FILTERS
            for scale in ((70, 50), (120, 90))
        ),
        dict(type="Resize", scale=(60, 50), keep_ratio=True),
        dict(type="ResizeEdge", scale=51, edge="short", backend="pillow", interpolation="bicubic"),
        dict(type="ResizeEdge", scale=51, edge="long"),
        dict(type="mmseg.ResizeToMultiple", size_divisor=32),
        dict(type="CenterCrop", crop_size=(51, 100)),
        dict(type="Pad", size=(100, 80), pad_val=dict(img=(1, 2, 3))),
        dict(type="mmdet.Pad", pad_to_square=True),
        dict(type="Pad", size_divisor=32),
    ]
    init_default_scope("mmpretrain")
    Image.open(image_file).resize((96, 65)).save(tmp_path / "small.png")
    loaded = Compose([dict(type="LoadImageFromFile")])({"img_path": str(tmp_path / "small.png")})
    image = loaded["img"][..., ::-1]
    prepared = opened(PAGE).evaluate(
        """async ([data, width, height, steps]) => {
            const { prepare } = await import("./prepare.js");
            const image = { width, height, data: Uint8ClampedArray.from(data) };
            return steps.map((step) => {
                const input = prepare(image, { preparation: [step], channels: "RGB" });
                return [Array.from(input.data), input.height, input.width];
            });
        }""",
        [image.flatten().tolist(), *image.shape[1::-1], preparation_of(steps)],
    )
    for step, (data, *size) in zip(steps, prepared, strict=True):
        expected = Compose([step])(dict(loaded))["img"][..., ::-1]
        assert tuple(size) == expected.shape[:2], step
        actual = np.array(data).reshape(3, *size).transpose(1, 2, 0)
        # Ties are rounded either way, with Pillow after each of the two directions.
        assert np.abs(actual - expected).max() <= 2, step
        assert (actual == expected).mean() > 0.98, step


# The command and the runtime's files


def test_an_existing_folder_and_unknown_steps_are_refused(
    job: MakeJob, tmp_path: Path, capsys
) -> None:
    options = (*job("classifier"), "--format", "web", "--out")
    (tmp_path / "taken").mkdir()
    line = tool.refusal(capsys, "export", *options, tmp_path / "taken")
    assert "taken: exists already" in line
    assert "no folder" in tool.refusal(capsys, "export", *options, tmp_path / "no" / "site")
    line = tool.refusal(capsys, "export", *options, tmp_path / "site", "--what", "backbone")
    assert "--what backbone" in line
    step = "test_dataloader.dataset.pipeline.1.interpolation=lanczos"
    line = tool.refusal(capsys, "export", *options, tmp_path / "site", "--cfg-options", step)
    assert "does not resize by cv2-lanczos" in line
    with pytest.raises(InputError, match="has no step RandomFlip"):
        preparation_of([dict(type="mmdet.RandomFlip")])
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "there is no ort.wasm.min.mjs of the npm package onnxruntime-web 1.30.0"),
        ("different", "ort.wasm.min.mjs is damaged, or not that of the npm package"),
        ("no npm", "install npm, or unpack the npm package onnxruntime-web 1.30.0"),
        ("no network", "npm pack onnxruntime-web@1.30.0 failed"),
    ],
)
def test_runtime_files_that_cannot_be_had_are_named_and_leave_nothing(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, case: str, message: str
) -> None:
    given = ()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if case in ("missing", "different"):
        (tmp_path / "files" / "dist").mkdir(parents=True)
        given = ("--runtime-files", tmp_path / "files")
        if case == "different":
            (tmp_path / "files" / "dist" / "ort.wasm.min.mjs").write_text("// another version")
    elif case == "no npm":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    else:
        monkeypatch.setattr(shutil, "which", lambda name: shutil.os.path.realpath("/bin/false"))
    out = tmp_path / "site"
    options = ("--format", "web", "--out", out, *given)
    assert message in tool.refusal(capsys, "export", *job("classifier"), *options)
    assert not out.exists() and not list(tmp_path.glob(".site*"))
    assert not list(tmp_path.glob("cache/care_mm/*"))
