"""The embedded data set: exact labels, the same bytes every time, never half there."""

from __future__ import annotations

import filecmp
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from PIL import Image

import care_mm.datasets
from care_mm.datasets.shapes.backgrounds import MATERIALS
from care_mm.datasets.shapes.layouts import (
    CROP_SIDE,
    PALETTE,
    SEG_CLASSES,
    build_shapes,
    ensure_shapes,
    scene_at,
)
from care_mm.datasets.shapes.objects import OBJECTS, draw_object
from care_mm.datasets.shapes.scenes import draw_scene
from care_mm.errors import InputError

TOOL = Path(__file__).parents[3] / "tools" / "make_shapes.py"
SMALL = {"num_train": 24, "num_val": 20, "size": 96, "seed": 3}  # enough for what is every 20th
TINY = {"num_train": 2, "num_val": 1, "size": 64, "seed": 0}
SPLITS = {"train": "training", "val": "validation"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return ensure_shapes(tmp_path_factory.mktemp("shapes") / "drawn", **SMALL)


@pytest.fixture(scope="module", params=list(SPLITS))
def coco(request, shapes):
    """A split's name and its annotations as pycocotools reads them."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO

    file = shapes / "coco" / "annotations" / f"instances_{request.param}2017.json"
    return request.param, COCO(str(file))


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# Drawing needs no models: an empty package in place of ours spares each process seconds of imports.
DRAWER = """
import json, sys, types
package = types.ModuleType("care_mm")
package.__path__ = [sys.argv[1]]
sys.modules["care_mm"] = package
from care_mm.datasets.shapes.layouts import ensure_shapes
ensure_shapes(sys.argv[2], **json.loads(sys.argv[3]))
"""


def drawer(root: Path, **settings) -> subprocess.Popen:
    """Another process that draws."""
    package = Path(care_mm.datasets.__file__).parents[1]
    command = [sys.executable, "-c", DRAWER, str(package), str(root), json.dumps(settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


# Drawing


@pytest.mark.parametrize("kind", range(len(OBJECTS)), ids=OBJECTS)
def test_objects_are_drawn_where_they_are_said_to_be(kind):
    light, ground = np.array([0.5, 0.3, 0.81]), np.full(3, 0.5, np.float32)
    for seed in range(5):
        rng = np.random.default_rng([seed, kind])
        x, y = rng.uniform(40, 60, 2)
        sprite = draw_object(rng, kind, (x, y), 40.0, light, ground, 1.0)
        assert sprite.alpha.min() >= 0 and sprite.alpha.max() == 1
        assert (sprite.rgb <= sprite.alpha[..., None] + 1e-5).all()  # nothing beside the mask
        ys, xs = np.mgrid[: sprite.alpha.shape[0], : sprite.alpha.shape[1]]
        area = sprite.alpha.sum()
        centre = [
            (sprite.alpha * at).sum() / area + 0.5 for at in (xs + sprite.left, ys + sprite.top)
        ]
        if OBJECTS[kind] in ("ball", "ring", "star"):  # the others are not symmetric
            assert centre == pytest.approx([x, y], abs=0.15)
        hole = sprite.alpha[int(y) - sprite.top, int(x) - sprite.left]
        assert hole == (OBJECTS[kind] != "ring")
        if OBJECTS[kind] == "ball":
            assert area == pytest.approx(np.pi / 4 * 40**2, rel=0.02)


def test_scenes_keep_their_promises():
    shapes, kinds = set(), set()
    for seed in range(60):
        scene = draw_scene(np.random.default_rng(seed), 64, crowd=seed % 4 == 0)
        h, w = scene.image.shape[:2]
        shapes.add((h, w))
        objects = [i for i in scene.instances if not i.crowd]
        assert scene.image.dtype == np.uint8 and scene.materials.shape == (h, w)
        assert scene.materials.max() < len(MATERIALS)
        assert 1 <= len(objects) <= 7
        assert len(scene.instances) - len(objects) == (seed % 4 == 0)
        assert sum(i.mask.astype(int) for i in scene.instances).max() == 1  # one owner a pixel
        assert all(0.5 <= i.visible <= 1 for i in objects)
        kinds |= {i.kind for i in objects}
    assert shapes == {(48, 64), (64, 64), (64, 48)}
    assert kinds == set(range(len(OBJECTS)))


def test_an_empty_scene_has_ground_only():
    scene = draw_scene(np.random.default_rng(0), 64, empty=True)
    assert scene.instances == ()
    assert scene.semantic().min() > len(OBJECTS)
    assert scene.image.std() > 1  # a texture, not one colour


def test_an_image_does_not_depend_on_how_many_there_are(shapes, tmp_path):
    few = ensure_shapes(tmp_path / "few", **{**SMALL, "num_train": 3, "num_val": 1})
    for kind in ("coco/train2017/*.jpg", "ade/ADEChallengeData2016/annotations/*/*.png"):
        for path in few.glob(kind):
            assert path.read_bytes() == (shapes / path.relative_to(few)).read_bytes()
    crops = [name for name in files(few) if name.endswith("JPEG")]
    assert crops and all(filecmp.cmp(few / n, shapes / n, shallow=False) for n in crops)


def test_same_seed_same_bytes_other_seed_other_pictures(tmp_path):
    one, two = ensure_shapes(tmp_path / "1", **TINY), ensure_shapes(tmp_path / "2", **TINY)
    other = ensure_shapes(tmp_path / "3", **{**TINY, "seed": 1})
    assert files(one) == files(two)
    assert filecmp.cmpfiles(one, two, files(one), shallow=False) == (files(one), [], [])
    photos = [name for name in files(one) if name.endswith(".jpg")]
    assert len(photos) == 6
    assert not any(filecmp.cmp(one / name, other / name, shallow=False) for name in photos)
    train, val = (scene_at(split, 0, 64, 0).image for split in SPLITS)
    assert train.shape != val.shape or (train != val).any()


def test_many_processes_draw_the_same_bytes_and_no_random_numbers(tmp_path, monkeypatch):
    alone = ensure_shapes(tmp_path / "1", **TINY)
    monkeypatch.setattr("care_mm.datasets.shapes.layouts._MANY", 2)
    state = torch.get_rng_state()
    together = ensure_shapes(tmp_path / "2", **TINY)
    assert torch.equal(torch.get_rng_state(), state)
    assert filecmp.cmpfiles(alone, together, files(alone), shallow=False) == (files(alone), [], [])


# Layouts


def test_coco_annotations_are_exact(coco):
    from pycocotools import mask as coco_mask

    _, data = coco
    assert [c["name"] for c in data.loadCats(data.getCatIds())] == list(OBJECTS)
    entries = data.dataset["annotations"]
    assert len({entry["id"] for entry in entries}) == len(entries) > 20
    assert len({image["id"] for image in data.dataset["images"]}) == len(data.imgs)
    for entry in entries:
        image = data.imgs[entry["image_id"]]
        mask = data.annToMask(entry)
        assert mask.shape == (image["height"], image["width"])
        assert entry["area"] == mask.sum() > 0
        assert entry["bbox"] == coco_mask.toBbox(entry["segmentation"]).tolist()
        assert entry["category_id"] in range(1, len(OBJECTS) + 1)
        assert entry["iscrowd"] in (0, 1)


def test_coco_has_empty_images_crowds_and_overlaps_without_double_pixels(coco, shapes):
    split, data = coco
    assert [i for i in data.imgs if not data.getAnnIds(i)], "no image without objects"
    assert data.getAnnIds(iscrowd=True), "no crowd"
    touching = 0
    for image_id, image in data.imgs.items():
        path = shapes / "coco" / f"{split}2017" / image["file_name"]
        with Image.open(path) as photo:
            assert photo.size == (image["width"], image["height"])
        entries = data.loadAnns(data.getAnnIds(image_id, iscrowd=False))
        owners = sum((data.annToMask(e).astype(int) for e in entries), np.zeros((1, 1), int))
        assert owners.max() <= 1
        boxes = sum(e["bbox"][2] * e["bbox"][3] for e in entries)
        union = np.zeros((image["height"], image["width"]), bool)
        for x, y, w, h in (map(int, e["bbox"]) for e in entries):
            union[y : y + h, x : x + w] = True
        touching += boxes > union.sum()
    assert touching, "no image where boxes overlap"


def test_ade_masks_agree_with_the_instances(coco, shapes):
    split, data = coco
    ade = shapes / "ade" / "ADEChallengeData2016"
    seen = np.zeros(256, bool)
    for image_id, image in data.imgs.items():
        name = f"ADE_{split}_{image_id:08d}"
        photo = ade / "images" / SPLITS[split] / f"{name}.jpg"
        twin = shapes / "coco" / f"{split}2017" / image["file_name"]
        assert photo.read_bytes() == twin.read_bytes()
        with Image.open(ade / "annotations" / SPLITS[split] / f"{name}.png") as file:
            assert file.mode == "L"
            mask = np.asarray(file)
        assert mask.shape == (image["height"], image["width"])
        expected = np.full(mask.shape, 255, np.uint8)  # 255: ground
        for entry in data.loadAnns(data.getAnnIds(image_id)):
            label = 0 if entry["iscrowd"] else entry["category_id"]
            expected[data.annToMask(entry) > 0] = label
        ground = expected == 255
        assert (mask[~ground] == expected[~ground]).all()
        assert (mask[ground] > len(OBJECTS)).all()
        seen[np.unique(mask)] = True
    assert not seen[len(SEG_CLASSES) + 1 :].any()
    assert seen[: len(SEG_CLASSES) + 1].all()
    assert (ade / "classes.txt").read_text().split() == list(SEG_CLASSES)


def test_class_names_serve_every_layout():
    assert list(OBJECTS) == sorted(OBJECTS)  # folders are labelled in this order
    assert SEG_CLASSES == OBJECTS + MATERIALS
    assert len(set(PALETTE)) == len(SEG_CLASSES)


def test_crops_show_what_their_folder_says(coco, shapes):
    split, data = coco
    folder = shapes / "imagenet" / split
    assert sorted(path.name for path in folder.iterdir()) == list(OBJECTS)
    crops = sorted(folder.glob("*/*.JPEG"))
    assert len(crops) > 10
    for path in crops:
        name, image_id, number = path.stem.split("_")
        entry = data.loadAnns(data.getAnnIds(int(image_id)))[int(number)]
        assert path.parent.name == name == OBJECTS[entry["category_id"] - 1]
        assert not entry["iscrowd"] and max(entry["bbox"][2:]) >= 20
        with Image.open(path) as file:
            assert np.asarray(file.convert("RGB")).shape == (CROP_SIDE, CROP_SIDE, 3)


# Drawn once, whole or not at all


def test_a_second_call_draws_nothing(shapes):
    before = {name: (shapes / name).stat().st_mtime_ns for name in files(shapes)}
    assert ensure_shapes(shapes, **SMALL) == shapes
    assert before == {name: (shapes / name).stat().st_mtime_ns for name in files(shapes)}


def test_two_processes_at_once_draw_once(tmp_path):
    root = tmp_path / "data" / "shapes"
    both = [drawer(root, **{**TINY, "num_train": 40}) for _ in range(2)]
    output = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], output
    assert sum("Drawing" in text for text in output) == 1, output
    assert len(list(root.glob("coco/train2017/*.jpg"))) == 40


def test_a_killed_drawing_leaves_nothing_that_looks_finished(tmp_path):
    root = tmp_path / "shapes"
    # Scenes that are larger than a pipe, so that the workers are held up in handing them over.
    process = drawer(root, **{**TINY, "num_train": 100_000, "size": 256})
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".shapes.partial/coco/train2017/*3.jpg")):
        assert process.poll() is None and time.monotonic() < deadline, "it does not draw"
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)  # its workers have the other end of the pipe: they end too
    assert not root.exists()
    assert ensure_shapes(root, **TINY) == root
    assert len(list(root.glob("coco/train2017/*.jpg"))) == TINY["num_train"]
    assert not (tmp_path / ".shapes.partial").exists()


def test_a_failed_drawing_leaves_nothing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("care_mm.datasets.shapes.layouts._rle", full)
    with pytest.raises(InputError, match="No space left"):
        ensure_shapes(tmp_path / "shapes", **TINY)
    assert [path.name for path in tmp_path.iterdir()] == [".shapes.lock"]


def test_other_settings_are_refused(shapes):
    with pytest.raises(InputError, match=r"seed 3 \(asked for: 4\).*delete it or choose another"):
        ensure_shapes(shapes, **{**SMALL, "seed": 4})


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="not drawn by care_mm"):
        ensure_shapes(tmp_path, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="not drawn by care_mm"):
        ensure_shapes(tmp_path / "mine.txt", **TINY)


def test_a_damaged_marker_is_named(tmp_path):
    (tmp_path / "shapes.json").write_text('{"format": 1')
    with pytest.raises(InputError, match=r"shapes\.json is damaged"):
        ensure_shapes(tmp_path, **TINY)


@pytest.mark.parametrize(
    "wrong",
    [{"num_train": 0}, {"num_val": -1}, {"size": 63}, {"seed": -1}, {"size": 96.5}, {"seed": True}],
    ids=str,
)
def test_bad_numbers_are_refused_by_name(tmp_path, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ensure_shapes(tmp_path / "shapes", **{**TINY, **wrong})
    assert not list(tmp_path.iterdir())


# In a config


class Probe:
    """A data set that only remembers what it was built with."""

    def __init__(self, **kwargs):
        self.kwargs = kwargs


@pytest.fixture
def probe():
    DATASETS.register_module(name="ShapesProbe", module=Probe)
    yield "ShapesProbe"
    DATASETS.module_dict.pop("ShapesProbe")


@pytest.mark.parametrize("tail", ["coco", "coco/", "ade/ADEChallengeData2016", "imagenet"])
def test_a_config_draws_what_is_missing_and_hands_the_rest_on(tmp_path, probe, tail):
    rest = {
        "data_root": f"{tmp_path}/data/{tail}",
        "pipeline": [{"type": "Any"}],
        "test_mode": True,
    }
    built = DATASETS.build({"type": "Shapes", "of": probe, "draw": TINY, **rest})
    assert isinstance(built, Probe) and built.kwargs == rest
    assert Path(rest["data_root"]).is_dir()


@pytest.mark.parametrize("data_root", [None, "", "data/shapes", "data/coco/train2017"])
def test_a_data_root_elsewhere_is_refused(data_root):
    with pytest.raises(InputError, match="data_root must end in one of coco"):
        build_shapes("ShapesProbe", data_root=data_root)


def test_an_unknown_key_of_draw_is_refused():
    with pytest.raises(InputError, match="no number; its keys are num_train"):
        build_shapes("ShapesProbe", {"number": 3}, data_root="data/coco")


# The command


def run_tool(monkeypatch, *arguments: str) -> int:
    """The exit status of ``tools/make_shapes.py``, run in this process."""
    monkeypatch.setattr(sys, "argv", ["make_shapes.py", *arguments])
    try:
        runpy.run_path(str(TOOL), run_name="__main__")
    except SystemExit as exit_:
        return exit_.code or 0
    return 0


def test_the_command_draws_and_says_where(tmp_path, monkeypatch, capsys):
    numbers = ["--num-train", "2", "--num-val", "1", "--size", "64"]
    assert run_tool(monkeypatch, "--out", str(tmp_path / "shapes"), *numbers) == 0
    assert str(tmp_path / "shapes" / "coco") in capsys.readouterr().out
    assert ensure_shapes(tmp_path / "shapes", **TINY)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "num_train 24 (asked for: 600)"),
        (["--num-val", "0"], "num_val"),
        (["--size", "32"], "size"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    shapes, monkeypatch, capsys, arguments, message
):
    before = files(shapes)
    assert run_tool(monkeypatch, "--out", str(shapes), *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]
    assert files(shapes) == before
