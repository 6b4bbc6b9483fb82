"""One bad input costs only itself, and images are what mmcv's loader makes of them.

Both hold for every task; the inputs are generated.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from predict.conftest import FRAMES, write_video
from untrained import CONFIGS, write_checkpoint

from care_mm.config import load_config
from care_mm.drawing import visualizer as visualizer_module
from care_mm.errors import InputError
from care_mm.predict import draw as draw_module
from care_mm.predict.files import PROBLEMS, TABLE, Output, find_files, predict_files
from care_mm.predict.predictor import Predictor

QUICK = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def pixels(height: int, width: int, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, channels))
    return values.astype(dtype).squeeze()


def write_rotated(file: Path) -> None:
    """Write an image that its EXIF data turn from wide to high."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(30, 50)).save(file, exif=exif)


def write_much_text(file: Path) -> None:
    """Write more text than Pillow reads."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "x" * (3 << 20), zip=True)
    Image.fromarray(pixels(30, 50)).save(file, pnginfo=info)


def write_half(file: Path) -> None:
    Image.fromarray(pixels(64, 64)).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


READABLE: dict[str, Callable[[Path], object]] = {
    "plain.jpg": lambda file: Image.fromarray(pixels(40, 60)).save(file),
    "grey.png": lambda file: Image.fromarray(pixels(40, 60, 1)).save(file),
    "alpha.png": lambda file: Image.fromarray(pixels(40, 60, 4)).save(file),
    "deep.png": lambda file: cv2.imwrite(str(file), pixels(40, 60, 1, np.uint16)),
    "deep.tif": lambda file: cv2.imwrite(str(file), pixels(40, 60, 3, np.uint16)),
    "palette.png": lambda file: Image.fromarray(pixels(40, 60)).convert("P").save(file),
    "cmyk.jpg": lambda file: Image.fromarray(pixels(40, 60)).convert("CMYK").save(file),
    "rotated.jpg": write_rotated,
    "text.png": write_much_text,
    "ünï code $x$.png": lambda file: Image.fromarray(pixels(40, 60)).save(file),
}
UNREADABLE: dict[str, Callable[[Path], object]] = {
    "empty.png": lambda file: file.touch(),
    "page.jpg": lambda file: file.write_text("<html>not found</html>"),
    "half.jpg": write_half,
    "half.png": write_half,
    "other.gif.png": lambda file: file.write_bytes(b"GIF89a\x01\x00"),
}
# Their sides are too small or unequal for some networks or visualizers.
EXTREME: dict[str, Callable[[Path], object]] = {
    "dot.png": lambda file: cv2.imwrite(str(file), pixels(1, 1)),
    "line.png": lambda file: cv2.imwrite(str(file), pixels(1, 900).reshape(1, 900, 3)),
    "pole.png": lambda file: cv2.imwrite(str(file), pixels(900, 1).reshape(900, 1, 3)),
}
NOT_SEEN = ("._plain.jpg", "__MACOSX/plain.jpg", ".ipynb_checkpoints/plain-checkpoint.jpg")


@pytest.fixture(scope="module", params=CONFIGS)
def predictor(request, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    config = load_config(CONFIGS[request.param])
    steps = config.test_dataloader.dataset.pipeline
    for step in steps:  # small images are enough, and quick
        if step["type"] in ("Resize", "ResizeEdge"):
            step["scale"] = 64 if step["type"] == "ResizeEdge" else (64, 64)
    checkpoint = write_checkpoint(request.param, tmp_path_factory.mktemp("model"))
    return Predictor(config, checkpoint, "cpu")


@QUICK
@given(
    good=st.sets(st.sampled_from(sorted(READABLE)), min_size=1, max_size=2),
    bad=st.sets(st.sampled_from(sorted(UNREADABLE)), min_size=1, max_size=3),
    extreme=st.sets(st.sampled_from(sorted(EXTREME)), max_size=1),
)
def test_one_bad_input_costs_only_itself(
    predictor: Predictor, good: set[str], bad: set[str], extreme: set[str]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "in")
        folder.mkdir()
        for file, write in {**READABLE, **UNREADABLE, **EXTREME}.items():
            if file in good | bad | extreme:
                write(folder / file)
        for file in NOT_SEEN:
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_bytes(b"\0\5\26\7")
        files = find_files([folder])
        assert set(files) == good | bad | extreme
        results = predict_files(predictor, files, Output(Path(name, "out"), score_thr=0))
        records = json.loads(Path(name, "out", TABLE).read_text())
        assert good <= set(records) <= good | extreme
        assert results.images == len(records)
        written = {file.name for file in Path(name, "out", "images").iterdir()}
        assert {f"{file}.png" for file in good} <= written
        listed = "\n".join(results.problems)
        assert Path(name, "out", PROBLEMS).read_text() == f"{listed}\n"
        failed = {Path(file).name for file in files if f"{file}.png" not in written}
        assert len(results.problems) == len(failed)
        for file in failed:
            assert f"image {folder / file}: cannot be " in listed
        with pytest.raises(InputError, match=PROBLEMS):
            results.refuse_problems(Path(name, "out"))


@QUICK
@given(name=st.sampled_from(sorted(READABLE)))
def test_an_image_is_the_one_that_mmcv_loads(predictor: Predictor, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        READABLE[name](file)
        loaded = predictor.read(file)
        expected = mmcv.imread(str(file))
        np.testing.assert_array_equal(loaded["img"], expected)
        sample = predictor(loaded)
        assert tuple(sample.ori_shape) == expected.shape[:2]
        size = visualizer_module.size_to_draw(*expected.shape[:2])
        assert predictor.draw(loaded, sample, 1.1).shape == (*size, 3)
        if "pred_sem_seg" in sample:
            assert sample.pred_sem_seg.shape == expected.shape[:2]


def test_records_are_written_even_if_drawing_fails(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no colour left")

    READABLE["plain.jpg"](tmp_path / "plain.jpg")
    video = write_video(tmp_path / "walk.mp4")
    files = {"plain.jpg": tmp_path / "plain.jpg", "walk.mp4": video}
    monkeypatch.setattr(predictor, "visualizer", None)
    monkeypatch.setattr("care_mm.predict.predictor.draw", fail)
    results = predict_files(predictor, files, Output(tmp_path / "out", every=4))
    records = json.loads((tmp_path / "out" / TABLE).read_text())
    assert list(records) == ["plain.jpg", "walk.mp4"]
    assert [frame["frame"] for frame in records["walk.mp4"]["frames"]] == [0, 4, 8]
    assert len(results.problems) == 4 and "no colour left" in results.problems[0]
    assert (tmp_path / "out" / "videos" / "walk.mp4").is_file(), "with the plain frames"


def test_a_frame_that_fails_costs_only_itself(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = predictor.prepare

    def fail_once(loaded: dict) -> dict:
        if loaded["img_path"].endswith("frame 4"):
            raise InputError("frame 4 is damaged")
        return prepare(loaded)

    monkeypatch.setattr(predictor, "prepare", fail_once)
    files = {"walk.mp4": write_video(tmp_path / "walk.mp4")}
    results = predict_files(predictor, files, Output(tmp_path / "out", every=2, as_frames=True))
    (record,) = json.loads((tmp_path / "out" / TABLE).read_text()).values()
    assert [frame["frame"] for frame in record["frames"]] == [0, 2, 6, 8]
    assert results.problems == ["frame 4 is damaged"]
    assert len(list((tmp_path / "out" / "videos" / "walk.mp4").iterdir())) == (FRAMES + 1) // 2


def test_what_an_interrupted_run_predicted_is_written(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.jpg"):
        READABLE["plain.jpg"](tmp_path / name)
    read = predictor.read

    def interrupted(path: Path) -> dict:
        if path.name == "b.jpg":
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(predictor, "read", interrupted)
    files = find_files([tmp_path / "a.jpg", tmp_path / "b.jpg"])
    with pytest.raises(KeyboardInterrupt):
        predict_files(predictor, files, Output(tmp_path / "out"))
    assert list(json.loads((tmp_path / "out" / TABLE).read_text())) == ["a.jpg"]


def test_results_inside_the_input_folder_are_no_input(predictor: Predictor, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        READABLE["plain.jpg"](tmp_path / name)
    write_video(tmp_path / "walk.avi", "MJPG")
    for folder, frames in (("first", False), ("second", True), (".", False)):
        files = find_files([tmp_path])
        assert set(files) == {"a.jpg", "b.jpg", "walk.avi"}
        predict_files(predictor, files, Output(tmp_path / folder, every=8, as_frames=frames))
    assert len(find_files([tmp_path])) == 3
    assert len(find_files([tmp_path / "first" / "images"])) == 2, "where they are asked for"


def test_large_images_are_drawn_smaller(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draw_module, "MAX_PIXELS", 5000)
    monkeypatch.setattr(visualizer_module, "MAX_PIXELS", 5000)
    Image.fromarray(pixels(200, 100)).save(tmp_path / "large.png")
    files = find_files([tmp_path / "large.png"])
    results = predict_files(predictor, files, Output(tmp_path / "out", score_thr=0))
    assert not results.problems and results.reduced == 1
    assert any("drawn smaller" in line for line in results.lines())
    assert Image.open(tmp_path / "out" / "images" / "large.png.png").size == (50, 100)


def test_deep_images_that_load_as_black_are_counted(predictor: Predictor, tmp_path: Path) -> None:
    """12 bits of 16, as microscopes and thermal cameras write them."""
    cv2.imwrite(str(tmp_path / "dark.png"), pixels(40, 60, 1, np.uint16) // 16)
    cv2.imwrite(str(tmp_path / "full.png"), pixels(40, 60, 1, np.uint16))
    results = predict_files(predictor, find_files([tmp_path]), Output(tmp_path / "out"))
    assert results.dark == 1 and any("docs/data.md" in line for line in results.lines())
