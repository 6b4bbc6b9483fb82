"""``import care_mm`` registers what configs name, under every scope, and stays light."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tool

CLASSIFIER = """
model = dict(
    type='{prefix}CAREClassifier',
    backbone=dict(type='{backbone}', arch=dict(base='s0', depths=(1, 1, 1, 1)), out_indices=(3,)),
    neck=dict(type='{prefix}GlobalAveragePooling'),
    head=dict(type='{prefix}CAREHead', num_classes=5, in_channels=1024))
"""
METRIC = "val_evaluator = dict(type='FastCocoMetric', ann_file=None)\n"
# Lists of modules that the configs and pages of version 0.1.0 import.
OLD_IMPORTS = [
    ["care_mm", "care_mm.engine.summary", "care_mm.engine.coco_metric", "care_mm.datasets.shapes"],
    ["care_mm.models.classifier", "care_mm.engine.summary", "care_mm.datasets.shapes"],
    ["care_mm", "care_mm.engine.summary", "care_mm.engine.speed"],
]
# Build what the config describes, as mmengine's Runner does.
BUILD = """
from mmengine.config import Config
from mmengine.registry import METRICS, MODELS, init_default_scope

config = Config.fromfile('config.py')
init_default_scope(config.get('default_scope', 'mmengine'))
print(type(MODELS.build(config.model)).__module__)
print(type(METRICS.build(config.val_evaluator)).__module__)
"""


def python(code: str, folder: Path) -> subprocess.CompletedProcess:
    """Run code in a process of its own, where nothing is imported yet."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def build(folder: Path, text: str, imports: list[str] | None = None, scope: str = "") -> list[str]:
    """Return the modules of the classes that a config's parts are built from."""
    text += f"custom_imports = dict(imports={imports or ['care_mm']}, allow_failed_imports=False)\n"
    text += f"default_scope = {scope!r}\n" if scope else ""
    (folder / "config.py").write_text(text)
    process = python(BUILD, folder)
    assert process.returncode == 0, process.stderr
    return [line for line in process.stdout.splitlines() if line.startswith("care_mm.")]


def test_import_is_light_and_registers_everything(tmp_path: Path) -> None:
    code = """
import sys
import care_mm
from mmengine.registry import HOOKS, METRICS, MODELS, OPTIMIZERS

print([name for name in ("mmdet", "mmseg", "mmpretrain", "timm") if name in sys.modules])
hooks = "AtomicCheckpoint DataGuard FiniteGuard Interrupt PlacedRandomness FastBackbone"
names = {
    MODELS: ["CARETransformer", "CAREClassifier", "CAREHead"],
    METRICS: ["DenseCocoMetric", "FastCocoMetric"],
    OPTIMIZERS: ["FusedAdamW"],
    HOOKS: [f"{name}Hook" for name in (*hooks.split(), "WeightsGuard", "Summary")],
}
print([name for registry in names for name in names[registry] if name not in registry])
"""
    process = python(code, tmp_path)
    assert process.stdout == "[]\n[]\n", process.stderr


def test_commands_start_without_the_mm_packages(tmp_path: Path) -> None:
    code = f"""
import importlib.util, pathlib, sys

sys.path.insert(0, {str(tool.TOOLS.parent)!r})
for file in pathlib.Path({str(tool.TOOLS)!r}).glob("*.py"):
    spec = importlib.util.spec_from_file_location("tools_" + file.stem, file)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    print(*(file.stem for name in ("mmdet", "mmseg", "mmpretrain") if name in sys.modules), end="")
"""
    process = python(code, tmp_path)
    assert (process.stdout, process.stderr) == ("", "")


def test_import_paths_of_earlier_versions_still_work(tmp_path: Path) -> None:
    code = """
from care_mm.loading import read_checkpoint, safe_loading
from care_mm.engine.speed import FastBackboneHook
from care_mm.engine import summary
import care_mm.engine.summary
import care_mm.datasets.shapes
import care_mm.checkpoint, care_mm.engine.hooks.speed, care_mm.report.summary

assert read_checkpoint is care_mm.checkpoint.read_checkpoint
assert FastBackboneHook is care_mm.engine.hooks.speed.FastBackboneHook
assert care_mm.engine.summary is summary is care_mm.report.summary
"""
    process = python(code, tmp_path)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    ("scope", "prefix"),
    [("mmpretrain", ""), ("mmpretrain", "mmpretrain."), ("mmdet", ""), ("mmseg", "")],
)
def test_every_scope_builds_our_classes_with_one_import(
    scope: str, prefix: str, tmp_path: Path
) -> None:
    text = CLASSIFIER.format(prefix=prefix, backbone="CARETransformer")
    if scope != "mmpretrain":  # a classifier needs mmpretrain's preprocessor
        text = "model = dict(type='CARETransformer', arch='s0')\n"
    model, metric = build(tmp_path, text + METRIC, scope=scope)
    assert model == f"care_mm.models.{'classifier' if scope == 'mmpretrain' else 'backbone'}"
    assert metric == "care_mm.engine.coco_metric"


@pytest.mark.parametrize("imports", OLD_IMPORTS, ids=lambda imports: imports[-1])
def test_configs_of_earlier_versions_still_build(imports: list[str], tmp_path: Path) -> None:
    text = CLASSIFIER.format(prefix="", backbone="CARETransformer")
    model, metric = build(tmp_path, text + METRIC, imports, scope="mmpretrain")
    assert (model, metric) == ("care_mm.models.classifier", "care_mm.engine.coco_metric")


@pytest.mark.parametrize("first", ["care_mm", "mmpretrain.models"])
def test_registered_names_return_what_builds_the_class(first: str, tmp_path: Path) -> None:
    code = (
        f"import {first}"
        + """
import care_mm
from mmengine.registry import MODELS
from mmpretrain.registry import MODELS as CLASSIFIERS

names = ("CAREHead", "mmpretrain.CAREHead")
heads = [registry.get(name) for registry in (MODELS, CLASSIFIERS) for name in names]
built = {type(head(num_classes=3, in_channels=8)) for head in heads}
import care_mm.models.classifier
assert built == {care_mm.models.classifier.CAREHead}, built
assert all(CLASSIFIERS.get(name) in built for name in names)
"""
    )
    process = python(code, tmp_path)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    ("package", "build", "message"),
    [
        (
            "mmdet",
            "METRICS.build(dict(type='FastCocoMetric'))",
            "FastCocoMetric needs mmdet: pip install onedl-mmdetection or mmdet",
        ),
        (
            "mmpretrain",
            "MODELS.build(dict(type='CAREHead', num_classes=3, in_channels=8))",
            "CAREHead needs mmpretrain: pip install onedl-mmpretrain or mmpretrain",
        ),
    ],
)
def test_a_missing_package_is_one_line(
    package: str, build: str, message: str, tmp_path: Path
) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None  # as if it was not installed

from care_mm import cli
from mmengine.registry import METRICS, MODELS

cli.command(lambda argv: {build})([])
"""
    process = python(code, tmp_path)
    assert process.returncode == 2, process.stderr
    assert process.stderr.splitlines()[-1] == f"-c: error: {message}"
    assert process.stderr.count("\n") == 1
