"""An installed wheel and an editable install have the configs, under ``care_mm::``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from care_mm.config import load_config
from care_mm.errors import InputError
from care_mm.shipped import get_config

pytest.importorskip("setuptools", minversion="77")  # pyproject.toml asks for it

ROOT = Path(__file__).parents[1]
SHIPPED = ("configs", "tools", "model-index.yml")
NAMES = ("maskrcnn_care_s1_coco.py", "semfpn_care_s0_ade20k.py", "shapes/care_s0_shapes.py")
# Tries every way to name a config, in another folder and process than those of the source.
SCRIPT = """
import json, sys
import care_mm
from care_mm.config import load_config
from mmengine.config import Config
from mmengine.hub import get_config
loaded = {}
for name in sys.argv[1:]:
    with open("own.py", "w") as file:
        file.write(f"_base_ = 'care_mm::{name}'\\nwork_dir = 'own'\\n")
    full = f"care_mm::{name}"
    ways = Config.fromfile("own.py"), get_config(full), load_config(full)
    assert ways[0].pop("work_dir") == "own"
    texts = {json.dumps(way.to_dict(), sort_keys=True, default=repr) for way in ways}
    assert len(texts) == 1
    loaded[name] = texts.pop()
print(json.dumps([care_mm.__file__, loaded]))
"""


def files_below(folder: Path) -> set[str]:
    return {
        file.relative_to(folder).as_posix()
        for name in SHIPPED
        for file in (folder / name, *(folder / name).rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }


def build(source: Path, kind: str, folder: Path) -> Path:
    """Call the build backend in ``source``, and return what it wrote into ``folder``."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(folder)!r}))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder / result.stdout.split()[-1]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the source tree, because a build writes into it."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("care_mm", "configs", "docs", "tests", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(source, "sdist", folder)) as archive:
        archive.extractall(folder)
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def installed(sdist: Path, tmp_path_factory) -> Path:
    """A folder with the unpacked wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build(sdist, "wheel", folder)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def load_elsewhere(folder: Path, cwd: Path) -> tuple[Path, dict[str, str]]:
    """Return the ``care_mm/__init__.py`` that ``folder`` installs, and the configs it loads."""
    code = f"import site; site.addsitedir({str(folder)!r})\n{SCRIPT}"
    result = subprocess.run(
        [sys.executable, "-c", code, *NAMES],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    file, loaded = json.loads(result.stdout.splitlines()[-1])
    return Path(file), loaded


def of_the_source(name: str) -> str:
    config = load_config(ROOT / "configs" / name)
    return json.dumps(config.to_dict(), sort_keys=True, default=repr)


def test_the_source_distribution_has_what_a_build_and_the_tests_need(
    source: Path, sdist: Path
) -> None:
    assert files_below(source) == files_below(sdist)
    for name in ("setup.py", "pyproject.toml", "Makefile", "requirements.txt", "LICENSE"):
        assert (sdist / name).is_file(), name
    for folder in ("care_mm", "docs", "tests"):
        expected = {
            file.relative_to(source) for file in (source / folder).rglob("*") if file.is_file()
        }
        assert not {file for file in expected if not (sdist / file).is_file()}


def test_the_wheel_has_all_configs_and_tools_and_nothing_outside_its_package(
    source: Path, installed: Path
) -> None:
    assert files_below(installed / "care_mm" / ".mim") == files_below(source)
    pages = [file for file in (source / "care_mm").rglob("*") if file.suffix in (".html", ".js")]
    assert pages
    for page in pages:
        assert (installed / page.relative_to(source)).is_file(), page
    top = {path.name for path in installed.iterdir()}
    assert top == {"care_mm", next(name for name in top if name.endswith(".dist-info"))}


def test_an_installed_wheel_finds_its_configs_from_another_folder(
    installed: Path, tmp_path: Path
) -> None:
    file, loaded = load_elsewhere(installed, tmp_path)
    assert file == installed / "care_mm" / "__init__.py"
    assert loaded == {name: of_the_source(name) for name in NAMES}


def test_an_editable_install_finds_the_configs_of_the_source(source: Path, tmp_path: Path) -> None:
    wheel = build(source, "editable", tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    file, loaded = load_elsewhere(tmp_path / "site", tmp_path)
    assert file == source / "care_mm" / "__init__.py"
    assert loaded == {name: of_the_source(name) for name in NAMES}
    assert not (source / "care_mm" / ".mim").exists()


def test_a_base_of_ours_builds_in_the_scope_of_the_config(tmp_path: Path) -> None:
    """As a scope, ``care_mm`` would hide mmdet's classes."""
    (tmp_path / "own.py").write_text("_base_ = 'care_mm::maskrcnn_care_s1_coco.py'")
    config = load_config(tmp_path / "own.py")
    assert "_scope_" not in config.pretty_text
    assert config.default_scope == "mmdet"


def test_an_unknown_name_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("_base_ = 'care_mm::maskrcnn_care_s1.py'")
    message = "care_mm has no such config; did you mean care_mm::maskrcnn_care_s1_coco.py"
    for name in (tmp_path / "own.py", "care_mm::maskrcnn_care_s1.py"):
        with pytest.raises(InputError, match=message):
            load_config(name)
    with pytest.raises(InputError, match="publishes no weights"):
        get_config("care_mm::maskrcnn_care_s1_coco.py", pretrained=True)


def test_configs_of_other_packages_are_mmengines_business() -> None:
    name = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
    assert get_config(name).model.type == "RetinaNet"
