"""Every command refuses a crafted checkpoint and runs nothing in it."""

from __future__ import annotations

from pathlib import Path

import crafted
import golden
import pytest
import tool
from commands.conftest import REPOSITORY, Run, one_line

from care_mm.errors import InputError

DRAW = dict(num_train=4, num_val=2, size=64)
LOADER = dict(num_workers=0, persistent_workers=False, dataset=dict(draw=DRAW))
SETTINGS = f"""
_base_ = {str(REPOSITORY / "configs" / "shapes" / "maskrcnn_care_s0_shapes.py")!r}
train_dataloader = dict(batch_size=2, **{LOADER})
val_dataloader = dict(batch_size=2, **{LOADER})
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
"""
INIT = """
model = dict(backbone=dict(init_cfg=dict(
    _delete_=True, type='Pretrained', checkpoint='crafted.pth')))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the config of a small job, and the current one."""
    (tmp_path / "job.py").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def craft(place: str, path: Path) -> Path:
    """Write a checkpoint with a working payload, and return the file that it would create."""
    marker = path.absolute().with_name("marker")
    crafted.save(crafted.PLACES[place](golden.single("s0"), marker), path, marker)
    return marker


def check(line: str, marker: Path, file: str = "crafted.pth") -> None:
    assert f"{file}: refused, it is damaged or holds more than weights" in line
    assert not marker.exists()


@pytest.mark.parametrize("place", crafted.PLACES)
def test_converter(place: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    marker = craft(place, folder / "crafted.pth")
    for target in ("ours.pth", "ours.safetensors", "."):
        check(tool.refusal(capsys, "convert_checkpoint", "crafted.pth", target), marker)
    assert {file.name for file in folder.iterdir()} == {"crafted.pth", "job.py"}


def test_load_from_in_a_process_of_its_own(folder: Path, run: Run) -> None:
    marker = craft("in the message hub", folder / "crafted.pth")
    (folder / "job.py").write_text(SETTINGS + "load_from = 'crafted.pth'\n")
    process = run("tools/train.py", "job.py", "--work-dir", "run", cwd=folder)
    check(one_line(process), marker)


@pytest.mark.parametrize("place", ["alone", "among the weights"])
def test_init_cfg_of_the_backbone(place: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    marker = craft(place, folder / "crafted.pth")
    (folder / "job.py").write_text(SETTINGS + INIT)
    check(tool.refusal(capsys, "train", "job.py", "--work-dir", "run"), marker)


@pytest.mark.parametrize("place", ["in the optimizer", "in the message hub"])
def test_resume_from_a_path(place: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    marker = craft(place, folder / "crafted.pth")
    args = ("job.py", "--work-dir", "run", "--resume", "crafted.pth")
    check(tool.refusal(capsys, "train", *args), marker)


def test_resume_from_the_last_checkpoint(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "run").mkdir()
    marker = craft("in the optimizer", folder / "run" / "epoch_1.pth")
    (folder / "run" / "last_checkpoint").write_text(str(folder / "run" / "epoch_1.pth"))
    args = ("job.py", "--work-dir", "run", "--resume")
    check(tool.refusal(capsys, "train", *args), marker, "epoch_1.pth")


def test_testing(folder: Path, capsys: pytest.CaptureFixture) -> None:
    marker = craft("in the message hub", folder / "crafted.pth")
    args = ("job.py", "crafted.pth", "--work-dir", "run")
    check(tool.refusal(capsys, "test", *args), marker)


def test_inference(folder: Path, capsys: pytest.CaptureFixture) -> None:
    marker = craft("next to the weights", folder / "crafted.pth")
    images = REPOSITORY / "docs" / "images"
    args = ("job.py", "crafted.pth", images, "--out-dir", "results", "--device", "cpu")
    check(tool.refusal(capsys, "infer", *args), marker)


def test_teacher(folder: Path) -> None:
    from mmpretrain.registry import MODELS

    import care_mm.models.classifier  # noqa: F401

    marker = craft("alone", folder / "crafted.pth")
    teacher = dict(
        type="ImageClassifier",
        backbone=dict(type="ResNet", depth=18),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="LinearClsHead", num_classes=3, in_channels=512),
    )
    model = dict(
        type="CAREClassifier",
        backbone=dict(type="CARETransformer", arch="s0", out_indices=(3,)),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="CAREHead", num_classes=3, in_channels=1024),
        teacher=teacher,
        teacher_checkpoint="crafted.pth",
    )
    with pytest.raises(InputError) as caught:
        MODELS.build(model).init_weights()
    check(str(caught.value), marker)
