"""ImageNet weights of a backbone: every form of a file loads, and others are refused."""

from __future__ import annotations

import argparse
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from safetensors.torch import save_file
from torch import Tensor, nn

from care_mm import CARETransformer
from care_mm.checkpoint.names import convert_official
from care_mm.checkpoint.reading import state_dict_of
from care_mm.errors import InputError
from care_mm.models.pretrained import load_pretrained

TINY = dict(
    depths=(1, 1, 2),
    mem_dims=(4, 4, 8),
    interaction_ratios=((1, 2), (2, 2), (2, 3)),
    attn_head_dims=(None, 4, 4),
)
State = dict[str, Tensor]


def without_prefix(state: State, prefix: str = "backbone.") -> State:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def with_prefix(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def tiny(**kwargs) -> CARETransformer:
    return CARETransformer(TINY, out_indices=(0, 1, 2), **kwargs)


def tiny_state(**kwargs) -> State:
    """Weights of a tiny backbone, none of which is at its initial value."""
    torch.manual_seed(0)
    return {
        key: torch.randn(value.shape) if value.is_floating_point() else value + 5
        for key, value in tiny(**kwargs).state_dict().items()
    }


def copied(module: nn.Module) -> State:
    return {key: value.clone() for key, value in module.state_dict().items()}


def equal(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def init_from(path: Path, arch: str | dict = "s0", prefix: str | None = None, **kwargs) -> State:
    """Return the state of a backbone that a config initialises from a file."""
    init_cfg = dict(type="Pretrained", checkpoint=str(path))
    if prefix is not None:
        init_cfg["prefix"] = prefix
    backbone = CARETransformer(arch, init_cfg=init_cfg, **kwargs)
    backbone.init_weights()
    return backbone.state_dict()


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """The messages that mmengine logs."""
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield seen
    logger.removeHandler(handler)


# Accepted files


def timm_style(state: State) -> dict:
    return {
        "epoch": 299,
        "arch": "CARE_S0",
        "args": argparse.Namespace(lr=2.5e-3, opt="adamw", betas=(0.9, 0.999), out=None),
        "metric": np.float64(78.4),
        "state_dict": OrderedDict(state),
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-5}]},
    }


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state},
        lambda state: {"model": OrderedDict(state)},
        lambda state: {"state_dict_ema": state},
        lambda state: with_prefix(state, "module."),
        lambda state: {"state_dict": with_prefix(state, "module.")},
        lambda state: {"state_dict_ema": with_prefix(state, "module.module.")},
        lambda state: {"model": with_prefix(state, "_orig_mod.module.")},
        lambda state: {"state_dict": {"note": "none"}, "model": state},
        timm_style,
        lambda state: {"state_dict": convert_official(state), "meta": {}},
        lambda state: without_prefix(convert_official(state)),
    ],
    ids=[
        *("bare", "state_dict", "model", "ema", "module", "nested-module", "module-twice"),
        *("compiled", "second-key", "timm", "ours", "alone"),
    ],
)
def test_every_form_of_the_published_weights_loads(wrap: Callable, tmp_path: Path) -> None:
    path = tmp_path / "care.pth"
    torch.save(wrap(golden.single("s0")), path)
    expected = without_prefix(convert_official(golden.single("s0")))
    assert equal(init_from(path), expected)


@pytest.mark.parametrize(
    ("plain", "ema"), [("state_dict", "state_dict_ema"), ("model", "model_ema")]
)
def test_plain_weights_are_preferred_to_their_ema_and_named(
    plain: str, ema: str, tmp_path: Path, messages: list[str]
) -> None:
    state = tiny_state()
    averaged = {key: value + 1 for key, value in state.items()}
    content = {ema: with_prefix(averaged, "module."), plain: state}
    torch.save(content, tmp_path / "both.pth")
    assert equal(init_from(tmp_path / "both.pth", TINY, out_indices=(0, 1, 2)), state)
    assert messages[-1].endswith(f"both.pth (its {plain}; {ema} left out)")
    assert equal(state_dict_of(content, "both.pth"), state)
    assert equal(state_dict_of(content, "both.pth", ema=True), averaged)
    for without in ({plain: state}, state):
        with pytest.raises(InputError, match="no state_dict_ema or model_ema or net_E in it"):
            state_dict_of(without, "plain.pth", ema=True)


@pytest.mark.parametrize("arch", golden.ARCHS)
def test_authors_file_loads_completely_in_every_size(
    arch: str, tmp_path: Path, messages: list[str]
) -> None:
    path = tmp_path / "care.pth.tar"
    torch.save({"state_dict": golden.single(arch)}, path)
    loaded = init_from(path, arch)
    assert equal(loaded, without_prefix(convert_official(golden.single(arch))))
    assert f"{len(loaded)} of {len(loaded)} tensors loaded from {path}" in messages[-1]


@pytest.mark.parametrize(
    ("prefix", "given"),
    [("backbone.", None), ("backbone.", "backbone"), ("encoder.", "encoder"), ("a.b.", "a.b.")],
)
def test_backbone_of_a_detector_is_loaded_by_its_prefix(
    prefix: str, given: str | None, tmp_path: Path
) -> None:
    state = tiny_state()
    detector = with_prefix(state, prefix) | {
        "neck.lateral_convs.0.conv.weight": torch.rand(3),
        "rpn_head.rpn_cls.bias": torch.full((3,), torch.nan),  # only the backbone is checked
    }
    torch.save({"meta": {"epoch": 12}, "state_dict": detector}, tmp_path / "detector.pth")
    assert equal(init_from(tmp_path / "detector.pth", TINY, given, out_indices=(0, 1, 2)), state)


def test_safetensors_file_loads(tmp_path: Path) -> None:
    state = tiny_state()
    save_file(with_prefix(state, "backbone."), tmp_path / "care.safetensors")
    assert equal(init_from(tmp_path / "care.safetensors", TINY, out_indices=(0, 1, 2)), state)


def test_half_precision_file_loads_into_float32(tmp_path: Path) -> None:
    half = {key: v.half() if v.is_floating_point() else v for key, v in tiny_state().items()}
    torch.save(half, tmp_path / "half.pth")
    loaded = init_from(tmp_path / "half.pth", TINY, out_indices=(0, 1, 2))
    assert loaded["stem.conv.weight"].dtype == torch.float32
    assert torch.equal(loaded["stem.conv.weight"], half["stem.conv.weight"].float())


def test_url_is_read_from_the_download_cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(tiny_state(), tmp_path / "checkpoints" / "care.pth")
    backbone = tiny()
    load_pretrained(backbone, "https://example.com/files/care.pth")
    assert equal(backbone.state_dict(), tiny_state())


def test_detector_initialises_its_backbone_from_the_file(tmp_path: Path) -> None:
    class Detector(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "care.pth"))
            self.backbone = tiny(init_cfg=init_cfg)

        def forward(self) -> None: ...

    torch.save(tiny_state(), tmp_path / "care.pth")
    detector = Detector()
    detector.init_weights()
    assert equal(detector.backbone.state_dict(), tiny_state())
    # Some runners call it twice; the second call changes nothing.
    detector.init_weights()
    assert equal(detector.backbone.state_dict(), tiny_state())


LAST = "stages.2.blocks.1."
FRESH = {LAST + name for name in ("gamma", "inter2.fc2.weight", "inter2.fc2.bias")}


def test_published_weights_leave_an_extra_projection_fresh(
    tmp_path: Path, messages: list[str]
) -> None:
    published = tiny_state()
    torch.save(published, tmp_path / "care.pth")
    backbone = tiny(expand_last=False, layer_scale_init_value=0.25)
    before = copied(backbone)
    load_pretrained(backbone, str(tmp_path / "care.pth"))
    loaded = backbone.state_dict()
    assert loaded.keys() - published.keys() == FRESH == backbone.fresh_keys
    for key, value in loaded.items():
        assert torch.equal(value, before[key] if key in FRESH else published[key]), key
    total = len(loaded)
    assert f"{total - 3} of {total} tensors loaded" in messages[-1]
    assert "3 start fresh" in messages[-1]


@pytest.mark.parametrize("expand_last", [True, False])
def test_file_with_the_extra_projection_loads_into_both_forms(
    expand_last: bool, tmp_path: Path
) -> None:
    state = tiny_state(expand_last=False)
    torch.save(state, tmp_path / "care.pth")
    backbone = tiny(expand_last=expand_last)
    load_pretrained(backbone, str(tmp_path / "care.pth"))
    expected = {k: v for k, v in state.items() if not (expand_last and k in FRESH)}
    assert equal(backbone.state_dict(), expected)


@pytest.mark.parametrize("out_indices", [(0,), (0, 1, 2), (1, -2)])
def test_stages_that_are_not_built_are_ignored(out_indices: tuple, tmp_path: Path) -> None:
    torch.save(golden.single("s0"), tmp_path / "care.pth")
    loaded = init_from(tmp_path / "care.pth", out_indices=out_indices)
    published = without_prefix(convert_official(golden.single("s0")))
    assert equal(loaded, {key: published[key] for key in loaded})
    assert not any(key.startswith("stages.3.") for key in loaded)


def test_output_norms_start_fresh_unless_the_file_has_them(tmp_path: Path) -> None:
    norm = dict(out_norm_cfg=dict(type="BN"))
    torch.save(tiny_state(), tmp_path / "without.pth")
    torch.save(tiny_state(**norm), tmp_path / "with.pth")
    backbone = tiny(**norm)
    load_pretrained(backbone, str(tmp_path / "without.pth"))
    assert (backbone.out_norms["1"].weight == 1).all()
    load_pretrained(backbone, str(tmp_path / "with.pth"))
    assert equal(backbone.state_dict(), tiny_state(**norm))


def test_deployed_file_loads_into_a_deployed_backbone_only(tmp_path: Path) -> None:
    deployed = tiny(deploy=True)
    torch.save(deployed.state_dict(), tmp_path / "deployed.pth")
    torch.save(tiny_state(), tmp_path / "plain.pth")
    other = tiny(deploy=True)
    load_pretrained(other, str(tmp_path / "deployed.pth"))
    assert equal(other.state_dict(), deployed.state_dict())
    for backbone, name in ((tiny(), "deployed.pth"), (tiny(deploy=True), "plain.pth")):
        with pytest.raises(InputError, match="does not fit"):
            load_pretrained(backbone, str(tmp_path / name))


# Refused files


def check_refused(backbone: CARETransformer, path: Path, match: str) -> None:
    """Check for one line that names the file, and for an unchanged model."""
    before = copied(backbone)
    backbone.init_cfg = dict(type="Pretrained", checkpoint=str(path))
    with pytest.raises(InputError, match=match) as caught:
        backbone.init_weights()
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    assert "set to `False`" not in message  # torch's advice to read the file unsafely
    assert equal(backbone.state_dict(), before)


def changed(**values: Tensor | None) -> State:
    state = tiny_state() | {key.replace("__", "."): value for key, value in values.items()}
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("state", "match"),
    [
        (changed(stem__conv__bias=None), "1 tensors missing.*'stem.conv.bias'"),
        (changed(stem__norm__running_mean=None), "missing.*'stem.norm.running_mean'"),
        (changed(stem__conv__bias=torch.zeros(7)), "another shape.*'stem.conv.bias'"),
        (changed(stem__conv__bias=torch.full((16,), torch.nan)), "not finite.*'stem.conv.bias'"),
        (
            changed(stem__norm__weight=torch.full((16,), torch.inf)),
            "not finite.*'stem.norm.weight'",
        ),
        (changed(stem__extra__weight=torch.ones(1)), "left over.*'stem.extra.weight'"),
        (
            changed(stages__2__blocks__2__gamma=torch.ones(1)),
            "left over.*'stages.2.blocks.2.gamma'",
        ),
        (changed(stem__conv__bias=torch.zeros(16).int()), "shape or kind.*'stem.conv.bias'"),
        (changed(stem__conv__bias=torch.zeros(16).to_sparse()), "'stem.conv.bias' is sparse"),
        (changed(stem__conv__bias=torch.zeros(16, device="meta")), "bias' is sparse.*without data"),
        (golden.single("s0") | {"extra.weight": torch.ones(1)}, "key 'extra.weight'"),
        ({"layer1.0.conv1.weight": torch.ones(1)}, "missing"),
        ({}, "no weights"),
        ({"epoch": 3, "state_dict": {"note": "none"}}, "no weights"),
        ([torch.ones(1)], "holds a list"),
        (torch.ones(1), "holds a Tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_weights_that_do_not_fit_are_refused(state: object, match: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "bad.pth")
    check_refused(tiny(), tmp_path / "bad.pth", match)


@pytest.mark.parametrize(("saved", "built"), [("s0", "s1"), ("s1", "s0"), ("s1", "s2")])
def test_weights_of_another_size_are_refused(saved: str, built: str, tmp_path: Path) -> None:
    torch.save({"state_dict": golden.single(saved)}, tmp_path / "other.pth")
    check_refused(CARETransformer(built), tmp_path / "other.pth", "another arch")


def test_prefix_that_is_not_in_the_file_is_refused(tmp_path: Path) -> None:
    torch.save(with_prefix(tiny_state(), "backbone."), tmp_path / "care.pth")
    backbone = tiny()
    with pytest.raises(InputError, match="missing"):
        load_pretrained(backbone, str(tmp_path / "care.pth"), prefix="encoder")
