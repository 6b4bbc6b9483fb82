"""tools/convert_checkpoint.py accepts the authors' files in every form, and refuses others."""

from __future__ import annotations

import argparse
import hashlib
import random
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import crafted
import golden
import numpy as np
import pytest
import tool
import torch
from commands.conftest import REPOSITORY, Run
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from care_mm import __version__
from care_mm.checkpoint.matching import load_model
from care_mm.checkpoint.names import convert_official
from care_mm.checkpoint.reading import read_checkpoint
from care_mm.config import load_config
from care_mm.convert import convert_file
from care_mm.errors import InputError
from care_mm.files import sha256_of

State = dict[str, Tensor]


def timm_style(state: State, ema: State) -> dict:
    """Return a checkpoint of the authors' script: two sets of weights next to other content."""
    return {
        "epoch": 299,
        "arch": "CARE",
        "args": argparse.Namespace(lr=2.5e-3, opt="adamw", betas=(0.9, 0.999), out=None),
        "metric": np.float64(78.4),
        "state_dict": OrderedDict((f"module.{key}", value) for key, value in state.items()),
        "state_dict_ema": OrderedDict((f"module.{key}", value) for key, value in ema.items()),
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-5}]},
    }


def averaged(state: State) -> State:
    return {key: value + 1 for key, value in state.items()}


def equal(first: State, second: State) -> bool:
    """Bit for bit, and in the same order."""
    return list(first) == list(second) and all(
        first[k].dtype == second[k].dtype and torch.equal(first[k], second[k]) for k in first
    )


def authors_file(folder: Path, state: State | None = None) -> Path:
    path = folder / "care.pth.tar"
    torch.save({"state_dict": golden.single("s0") if state is None else state}, path)
    return path


# Accepted files


def test_authors_file_gets_a_name_with_its_hash(tmp_path: Path, run: Run) -> None:
    state = golden.single("s1")
    torch.save(timm_style(state, averaged(state)), tmp_path / "care_s1.pth.tar")
    (tmp_path / "checkpoints").mkdir()
    result = run("tools/convert_checkpoint.py", "care_s1.pth.tar", "checkpoints", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (written,) = (tmp_path / "checkpoints").iterdir()
    sha256 = sha256_of(written)
    assert written.name == f"care_s1_in1k-{sha256[:8]}.pth"
    assert result.stdout.splitlines() == [
        "CARE-S1: 776 tensors, 9,602,424 parameters, 1000 classes (its state_dict; "
        "state_dict_ema left out)",
        f"SHA-256 {sha256}",
        f"written to checkpoints/{written.name}",
    ]
    content = torch.load(written, weights_only=True)
    assert equal(content["state_dict"], convert_official(state))
    assert content["meta"] == dict(
        arch="s1",
        source="care_s1.pth.tar",
        source_sha256=sha256_of(tmp_path / "care_s1.pth.tar"),
        num_keys=776,
        num_classes=1000,
        care_mm_version=__version__,
    )


@pytest.mark.parametrize("arch", golden.ARCHS)
def test_converted_weights_give_the_published_outputs(arch: str, tmp_path: Path) -> None:
    """Through mmpretrain's classifier as the config builds it, in float64."""
    from mmpretrain.registry import MODELS

    import care_mm.models.classifier  # noqa: F401

    source = tmp_path / f"care_{arch}.pth.tar"
    torch.save({"state_dict": golden.state_dict(arch), "args": argparse.Namespace()}, source)
    assert convert_file(source, tmp_path / "ours.pth").arch == arch
    config = load_config(REPOSITORY / "configs" / f"care_{arch}_imagenet.py")
    config.model.backbone.drop_path_rate = 0.0
    config.model.pop("teacher", None)
    config.model.pop("teacher_checkpoint", None)
    config.model.pop("train_cfg", None)
    model = MODELS.build(config.model).double()
    load_model(model, tmp_path / "ours.pth")

    reference, outputs = golden.arrays(arch), {}
    with torch.no_grad():
        x = golden.inputs()
        feats = model.eval().extract_feat(x)
        outputs["head"], outputs["dist_head"] = model.head.branches(feats)
        outputs["logits"] = model(x)
        feats = model.train().extract_feat(x)
        outputs["train_head"], outputs["train_dist_head"] = model.head.branches(feats)
    for name, output in outputs.items():
        assert output.shape == reference[name].shape, name
        assert golden.relative_error(output, reference[name]) <= 1e-6, name


FORMS: dict[str, tuple[str, Callable[[State], dict]]] = {
    "state_dict": (".pth.tar", lambda state: {"state_dict": state}),
    "model": (".pth", lambda state: {"model": state, "epoch": 3}),
    "only ema": (".pt", lambda state: {"state_dict_ema": state}),
    "module": (".pth", lambda state: {f"module.{key}": value for key, value in state.items()}),
    "bare": (".bin", lambda state: state),
    "safetensors": (".safetensors", lambda state: state),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_weights(form: str, tmp_path: Path) -> None:
    suffix, wrap = FORMS[form]
    source = tmp_path / f"care{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(wrap(golden.single("s0")), source)
    convert_file(source, tmp_path / "ours.pth", arch="s0")
    state = read_checkpoint(tmp_path / "ours.pth")["state_dict"]
    expected = convert_official(golden.single("s0"))
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("arch", golden.ARCHS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_converting_back_is_equal_bit_for_bit(
    suffix: str, arch: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    official = golden.single(arch)
    ours, restored = tmp_path / f"ours{suffix}", tmp_path / f"restored{suffix}"
    tool.call("convert_checkpoint", authors_file(tmp_path, official), ours, "--arch", arch)
    tool.call("convert_checkpoint", ours, restored, "--to-official")
    state = read_checkpoint(restored)["state_dict"]
    if suffix == ".safetensors":  # which sorts
        state = {key: state[key] for key in official}
    assert equal(state, official)
    assert capsys.readouterr().out.count(f"CARE-{arch.upper()}: {len(official)} tensors") == 2


def test_ema_is_converted_on_request(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    state = golden.single("s0")
    torch.save(timm_style(state, averaged(state)), tmp_path / "both.pth")
    tool.call("convert_checkpoint", tmp_path / "both.pth", tmp_path / "ema.pth", "--ema")
    written = read_checkpoint(tmp_path / "ema.pth")["state_dict"]
    assert equal(written, convert_official(averaged(state)))
    assert "(its state_dict_ema; state_dict left out)" in capsys.readouterr().out


def test_safetensors_carries_the_origin_as_strings(tmp_path: Path) -> None:
    source, target = authors_file(tmp_path), tmp_path / "ours.safetensors"
    assert convert_file(source, target).sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    with safe_open(target, framework="pt") as file:
        assert file.metadata() == dict(
            arch="s0",
            source="care.pth.tar",
            source_sha256=sha256_of(source),
            num_keys="567",
            num_classes="1000",
            care_mm_version=__version__,
        )


def test_heads_for_other_classes_are_converted(tmp_path: Path) -> None:
    state = dict(golden.single("s0"))
    for key in ("head.fc.weight", "head.fc.bias", "dist_head.fc.weight", "dist_head.fc.bias"):
        state[key] = state[key][:3]  # a view: the file must not hold the rest of it
    done = convert_file(authors_file(tmp_path, state), tmp_path / "three.pth")
    assert (done.num_classes, done.arch) == (3, "s0")
    kept = sum(value.numel() * value.element_size() for value in state.values())
    assert done.path.stat().st_size < kept + 400_000
    restored = convert_file(done.path, tmp_path, official=True)
    assert restored.path.name == f"care_s0_official-{restored.sha256[:8]}.pth"


# Refused files


def refused(capsys: pytest.CaptureFixture, folder: Path, *args: object) -> str:
    """Return the error; check that nothing is written or changed."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    line = tool.refusal(capsys, "convert_checkpoint", *args)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return line


def without(key: str) -> State:
    return {k: v for k, v in golden.single("s0").items() if k != key}


def filled(key: str, value: float) -> State:
    return golden.single("s0") | {key: torch.full_like(golden.single("s0")[key], value)}


RESNET = {"conv1.weight": torch.ones(64, 3, 7, 7), "fc.bias": torch.ones(1000)}
STATES: dict[str, tuple[Callable[[], object], str]] = {
    "missing": (lambda: without("stem.0.bias"), "1 tensors missing"),
    "first missing": (lambda: without("stem.0.weight"), "1 tensors missing"),
    "head missing": (lambda: without("dist_head.fc.bias"), "'head.distill.fc.bias'"),
    "left over": (lambda: golden.single("s0") | {"x.weight": torch.ones(1)}, "'x.weight'"),
    "shape": (lambda: golden.single("s0") | {"stem.0.bias": torch.ones(7)}, "another shape"),
    "resnet": (lambda: RESNET, "not the weights of a CARE classifier"),
    "nan": (lambda: filled("stem.0.bias", torch.nan), "hold NaN or infinity"),
    "infinity": (lambda: filled("dist_head.fc.bias", torch.inf), "hold NaN or infinity"),
    "nothing": (dict, "no weights in it"),
    "list": (list, "holds a list"),
    "ours": (lambda: convert_official(golden.single("s0")), "has our names already"),
}


@pytest.mark.parametrize("case", STATES)
def test_other_weights_are_refused(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make, reason = STATES[case]
    torch.save(make(), tmp_path / "source.pth")
    line = refused(capsys, tmp_path, tmp_path / "source.pth", tmp_path / "ours.pth")
    assert reason in line and "source.pth" in line


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("care.pth.tar", "ours.pth", "--arch", "s1"), "holds the weights of s0, not s1"),
        (("care.pth.tar", "ours.pth", "--ema"), "no state_dict_ema"),
        (("care.pth.tar", "ours.pth", "--to-official"), "has the authors' names already"),
        (("care.pth.tar", "existing.pth"), "existing.pth: exists already"),
        (("care.pth.tar", "care.pth.tar"), "is the file to convert"),
        (("care.pth.tar", "./care.pth.tar"), "is the file to convert"),
        (("care.pth.tar", "nowhere/ours.pth"), "folder nowhere does not exist"),
        (("care.pth.tar", "checkpoints"), "has to end in .pth or .safetensors"),
        (("care.pth.tar", "ours.onnx"), "has to end in .pth or .safetensors"),
        (("nothing.pth", "ours.pth"), "nothing.pth: no such file"),
        ((".", "ours.pth"), "no such file"),
    ],
)
def test_other_arguments_are_refused(
    args: tuple, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    authors_file(tmp_path)
    (tmp_path / "existing.pth").write_bytes(b"existing")
    assert reason in refused(capsys, tmp_path, *args)


@pytest.mark.parametrize("damage", crafted.damaged(b""))
def test_damaged_files_are_refused(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = authors_file(tmp_path)
    source.write_bytes(crafted.damaged(source.read_bytes())[damage])
    assert "refused, it is damaged" in refused(capsys, tmp_path, source, tmp_path / "ours.pth")


def test_flipped_bits_and_lost_ends_are_refused_or_change_nothing(tmp_path: Path) -> None:
    source, target = authors_file(tmp_path), tmp_path / "ours.pth"
    intact, draw = source.read_bytes(), random.Random(0)
    expected = convert_official(golden.single("s0"))
    for offset in (0, 30, len(intact) - 1, *(draw.randrange(len(intact)) for _ in range(9))):
        flipped = bytearray(intact)
        flipped[offset] ^= 1 << draw.randrange(8)
        for broken in (flipped, intact[:offset]):
            source.write_bytes(broken)
            try:
                convert_file(source, target)
            except InputError as error:
                assert "care.pth.tar: refused" in str(error)
                assert not target.exists()
            else:
                assert broken is flipped
                assert equal(read_checkpoint(target)["state_dict"], expected)
                target.unlink()


def test_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    source = authors_file(tmp_path)
    monkeypatch.setattr("care_mm.files.os.fsync", fail)
    line = refused(capsys, tmp_path, source, tmp_path / "ours.pth")
    assert "ours.pth: could not be written (No space left on device)" in line
