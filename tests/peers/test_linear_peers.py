"""MLLA, FLatten and SLAB keep the promises of our backbones."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from half import HALF
from peers.linear_golden import PEERS, figures, image, load
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from care_mm.errors import InputError
from care_mm.models.fold import switch_to_deploy
from care_mm.models.linear_attention import linear_attention
from care_mm.peers.base import PeerBackbone
from care_mm.peers.prep_bn import PRepBN
from care_mm.peers.swin import SwinBlock, shift_mask, unite, windows
from care_mm.peers.token_attention import resize_encoding

FOLDED = ("mlla_t", "slab_pvt_t", "slab_swin_t")  # FLatten has layer norms only
CEIL = ("mlla_t", "flatten_swin_t", "slab_swin_t")  # they pad odd sides, PVT does not


@pytest.fixture(scope="module", params=PEERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def shallow(name: str, img_size: int = 64, **options) -> PeerBackbone:
    """A backbone with fewer blocks, and a shifted block in stages 1 and 3, in float32."""
    cls = PEERS[name].cls
    spec = replace(cls.archs["t"], depths=(2, 1, 2, 1))
    smaller = type(cls.__name__, (cls,), {"archs": {"t": spec}})
    size = {"img_size": img_size} if PEERS[name].has_img_size else {}
    return smaller("t", **size, **options)


def drawn(name: str, img_size: int = 64, **options) -> PeerBackbone:
    """The shallow backbone with golden weights, so that no mistake hides."""
    return load(shallow(name, img_size, **options), name, img_size)


def error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


# Shapes


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (75, 230), (200, 136)])
@torch.no_grad()
def test_any_size_gives_the_declared_widths_and_strides(name: str, size: tuple) -> None:
    model = drawn(name, out_indices=(0, 2, -1)).eval()
    maps = model(image(3, 1, 3, *size).float())
    assert model.out_strides == (4, 16, 32)
    for out, channels, stride in zip(maps, model.out_channels, model.out_strides, strict=True):
        sides = tuple(-(-s // stride) if name in CEIL else s // stride for s in size)
        assert out.shape == (1, channels, *sides)
        assert out.isfinite().all()


@torch.no_grad()
def test_every_pixel_reaches_the_last_map(name: str) -> None:
    """Padding does not cut pixels off, and the map of PVT drops only what does not fill a patch."""
    model = drawn(name, out_indices=(3,)).eval()
    x = image(3, 1, 3, 96, 70).float()
    before = model(x)[0]
    used = 70 if name in CEIL else 68
    for row, column in ((0, 0), (95, 0), (0, used - 1), (95, used - 1)):
        changed = x.clone()
        changed[..., row, column] += 10
        assert error(model(changed)[0], before) > 1e-6, (row, column)


@pytest.mark.parametrize("out_indices", [(0,), (1, -2)])
def test_stages_beyond_the_last_are_not_built(name: str, out_indices: tuple) -> None:
    model = shallow(name, out_indices=out_indices)
    assert len(model.stages) == out_indices[-1] % 4 + 1
    assert len(model(torch.rand(2, 3, 64, 64))) == len(out_indices)


def test_unknown_arch_names_the_choices(name: str) -> None:
    with pytest.raises(ValueError, match="arch 'x9' is unknown: choose one of t"):
        PEERS[name].cls("x9")
    with pytest.raises(ValueError, match="out_indices"):
        PEERS[name].cls("t", out_indices=(4,))
    with pytest.raises(ValueError, match="frozen_stages=3"):
        PEERS[name].cls("t", out_indices=(1,), frozen_stages=3)


def test_output_norms_normalise_the_channels_of_each_pixel(name: str) -> None:
    model = shallow(name, out_norm_cfg=dict(type="ChannelLN"), out_indices=(1, 3)).eval()
    for out in model(image(3, 1, 3, 64, 96).float()):
        assert out.mean(1).abs().max() < 1e-4
        assert (out.std(1, correction=0) - 1).abs().max() < 1e-2


# Training


def step(model: PeerBackbone) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Return outputs, gradients and the state after one training step."""
    torch.manual_seed(1)  # drop path
    outs = model.train()(image(7, 2, 3, 64, 96).to(next(model.parameters())))
    sum(out.square().mean() for out in outs).backward()
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    return list(outs), gradients, model.state_dict()


def test_every_parameter_gets_a_gradient_and_checkpointing_changes_nothing(name: str) -> None:
    """The share of SLAB's layer norms falls in every pass; recomputing must not count."""
    settings = dict(drop_path_rate=0.3)
    plain = drawn(name, **settings)
    saving = drawn(name, with_cp=True, **settings)
    for model in (plain, saving):
        for norm in (part for part in model.modules() if isinstance(part, PRepBN)):
            norm.total_step.fill_(4)  # each pass moves the share by a quarter
            norm.iter.fill_(3)
    calls: list[int] = []
    saving.stages[2].blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    outs, gradients, state = step(plain)
    saved_outs, saved_gradients, saved_state = step(saving)
    assert len(calls) == 2
    assert set(gradients) == {key for key, _ in plain.named_parameters()}
    assert all(map(torch.equal, outs, saved_outs))
    for key, gradient in gradients.items():
        torch.testing.assert_close(saved_gradients[key], gradient, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(state[key], saved_state[key]) for key in state)
    counts = {int(state[key]) for key in state if key.endswith(".iter")}
    assert counts == ({2} if name.startswith("slab") else set())


@pytest.mark.parametrize("frozen_stages", [0, 2])
def test_frozen_stages_do_not_change(name: str, frozen_stages: int) -> None:
    model = drawn(name, frozen_stages=frozen_stages, norm_eval=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    _, gradients, state = step(model)
    frozen = ("stem.", *(f"stages.{i}." for i in range(frozen_stages)))
    assert gradients and not any(key.startswith(frozen) for key in gradients)
    for key, value in state.items():
        if not key.endswith(".iter") or key.startswith(frozen):
            assert torch.equal(value, before[key]), key  # no batch statistic moves either
    assert all(not n.training for n in model.modules() if isinstance(n, _BatchNorm))


# Folding


@pytest.mark.parametrize("size", [(64, 64), (75, 230)])
@pytest.mark.parametrize("name", FOLDED)
def test_folding_is_exact_with_padding_too(name: str, size: tuple) -> None:
    model = drawn(name).double().eval()
    x = image(7, 2, 3, *size)
    folded = switch_to_deploy(copy.deepcopy(model))
    kinds = (_BatchNorm, PRepBN)
    assert [part for part in folded.modules() if isinstance(part, kinds)] == []
    with torch.no_grad():
        for a, b in zip(folded(x), model(x), strict=True):
            assert error(a, b) < 1e-11
    state = {key: value.clone() for key, value in folded.state_dict().items()}
    switch_to_deploy(folded)  # a second time
    assert all(torch.equal(value, state[key]) for key, value in folded.state_dict().items())


def test_the_head_of_slab_swin_folds_exactly() -> None:
    model = load(PEERS["slab_swin_t"].classifier(), "slab_swin_t").double().eval()
    feature = (image(1, 2, 768, 3, 4),)
    with torch.no_grad():
        expected = model.head(feature)
        model.head.switch_to_deploy()
        model.head.switch_to_deploy()
        assert error(model.head(feature), expected) < 1e-11
    assert isinstance(model.head.norm, nn.Identity)


# PRepBN


def test_the_share_of_the_layer_norm_falls_to_zero() -> None:
    torch.manual_seed(0)
    norm = PRepBN(6, eps=1e-6, total_step=2).train()
    norm.warm.fill_(1)
    x = torch.randn(3, 4, 5, 6)
    assert torch.equal(norm(x), norm.norm1(x))  # warm: the batch norm does not see the batch
    assert int(norm.norm2.bn.num_batches_tracked) == 0
    seen = []
    for share in (1.0, 0.5, 0.0, 0.0):
        reference = copy.deepcopy(norm)
        expected = share * reference.norm1(x) + (1 - share) * reference.norm2(x)
        torch.testing.assert_close(norm(x), expected)
        seen.append(int(norm.iter))
    assert seen == [1, 0, 0, 0]
    assert int(norm.warm) == 0
    assert int(norm.norm2.bn.num_batches_tracked) == 4
    before = copy.deepcopy(norm.state_dict())
    torch.testing.assert_close(norm.eval()(x), norm.norm2(x))
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


def test_one_batch_norm_replaces_a_prepbn_in_evaluation() -> None:
    torch.manual_seed(0)
    norm = PRepBN(6, eps=1e-6, total_step=2)
    for part in (norm.norm2.bn.weight, norm.norm2.bn.bias, norm.norm2.alpha):
        nn.init.normal_(part)
    norm.norm2.bn.running_mean.normal_()
    norm.norm2.bn.running_var.uniform_(0.5, 2)
    x = torch.randn(7, 6)
    merged = norm.eval().batch_norm()
    torch.testing.assert_close(merged(x), norm(x))


# Attention and windows


@pytest.mark.parametrize("tokens", [3, 40])
def test_simplified_attention_has_one_value_in_both_orders(tokens: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.rand(3, 2, tokens, 16, dtype=torch.float64)
    weights = [
        (q[..., h] @ k[..., h].transpose(1, 2), v[..., h]) for h in (slice(0, 8), slice(8, 16))
    ]
    expected = torch.cat([w / (w.sum(-1, keepdim=True) + 1e-6) @ x for w, x in weights], dim=-1)
    torch.testing.assert_close(linear_attention(q, k, v, 2, mean=False), expected)


def test_windows_are_undone() -> None:
    x = torch.arange(2 * 6 * 9 * 2.0).reshape(2, 6, 9, 2)
    parts = windows(x, 3)
    assert torch.equal(parts[1], x[0, :3, 3:6])
    assert torch.equal(unite(parts, (6, 9)), x)


def test_masked_pixels_were_not_neighbours() -> None:
    """Along a side with one window nothing is shifted, so nothing is masked."""
    mask = shift_mask((4, 8), 4, (0, 2), torch.zeros(1))
    assert mask.shape == (2, 16, 16)
    assert not mask[0].any()
    columns = torch.arange(16) % 4
    apart = (columns[:, None] < 2) != (columns < 2)
    assert torch.equal(mask[1] == -100, apart)


def test_only_sides_with_more_than_one_window_are_shifted() -> None:
    torch.manual_seed(0)
    shifted = SwinBlock(32, 4, True, None, nn.LayerNorm, 0.0).eval()
    plain = copy.deepcopy(shifted)
    plain.shift = 0
    for size, is_same in (((4, 4), True), ((3, 4), True), ((4, 8), False), ((5, 4), False)):
        x = torch.randn(1, *size, 32)
        assert torch.allclose(shifted(x), plain(x), atol=1e-6) is is_same, size


@pytest.mark.parametrize(("img_size", "sides"), [(224, (56, 28, 7, 7)), (200, (50, 25, 7, 7))])
def test_the_first_two_stages_have_one_window_at_the_size_of_the_classifier(
    img_size: int, sides: tuple
) -> None:
    with torch.device("meta"):
        model = PEERS["slab_swin_t"].backbone(img_size=img_size)
    assert tuple(stage.blocks[0].window for stage in model.stages) == sides


def test_resizing_a_position_keeps_a_linear_ramp() -> None:
    ramp = torch.linspace(0, 1, 4)[:, None].expand(4, 4).reshape(1, 16, 1)
    assert torch.equal(resize_encoding(ramp, 4, (4, 4)), ramp.reshape(1, 4, 4, 1))
    wide = resize_encoding(ramp, 4, (4, 9))
    torch.testing.assert_close(wide, ramp.reshape(1, 4, 4, 1)[:, :, :1].expand(1, 4, 9, 1))


# Precision


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_close(name: str, dtype: torch.dtype) -> None:
    model = drawn(name).eval()
    x = image(7, 1, 3, 64, 64).float()
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", dtype):
            actual = model(x)
    for a, b in zip(actual, expected, strict=True):
        assert error(a.float(), b) < (0.02 if dtype is torch.float16 else 0.15)


@pytest.mark.parametrize("dtype", HALF)
def test_attention_of_many_tokens_stays_finite_in_half_precision(dtype: torch.dtype) -> None:
    """Sums over the tokens of a large map exceed the largest float16."""
    torch.manual_seed(0)
    q, k, v = (8 * torch.rand(3, 1, 200 * 336, 32)).to(dtype)
    for mean in (True, False):
        out = linear_attention(q, k, v, 1, mean=mean)
        assert out.dtype == dtype
        assert out.isfinite().all()
        assert error(out.float(), v.float().mean(1, keepdim=True).expand_as(v)) < 0.1


# Checkpoints


def test_an_authors_checkpoint_loads_and_a_wrong_one_is_refused(name: str, tmp_path: Path) -> None:
    path, facts = tmp_path / "authors.pth", figures(name).shapes
    names = PEERS[name].cls.convert_official({key: key for key in facts})
    unbuilt = ("backbone.stages.2.", "backbone.stages.3.")
    torch.manual_seed(0)
    state = {
        key: torch.randn(facts[key]) if facts[key] else torch.tensor(5)
        for ours, key in names.items()
        if not ours.startswith(unbuilt) or ours.endswith("0.norm1.bias")
    }
    torch.save({"model": state}, path)
    pretrained = dict(type="Pretrained", checkpoint=str(path))
    model = PEERS[name].backbone(out_indices=(0, 1), init_cfg=pretrained)
    model.init_weights()
    converted = model.convert_official(state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, converted[f"backbone.{key}"]), key

    norm = next(key for key in state if "0.norm1." in key)
    torch.save({key: value for key, value in state.items() if key != norm}, path)
    with pytest.raises(InputError, match=r"does not fit this backbone.*1 tensors missing"):
        model.init_weights()
    torch.save({**state, "extra.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"key 'extra\.weight' is not one of the authors'"):
        model.init_weights()


# Registration


def test_names_are_registered_lazily_and_do_not_collide() -> None:
    code = """
import sys
import care_mm
from mmengine.registry import MODELS

names = ("MLLA", "FLattenPVT", "FLattenSwin", "SLABPVT", "SLABSwin")
assert not any(name in MODELS for name in names)
import care_mm.peers
assert all(name in MODELS for name in names)
assert not {"mmdet", "mmseg", "mmpretrain", "timm"} & set(sys.modules)
from mmpretrain.registry import MODELS as CLASSIFIERS

import mmpretrain.models
heads = {f"{name}Head" for name in names}
# mmpretrain has the heads from us, and no backbone of the same name.
assert all(CLASSIFIERS.module_dict[head].__module__.startswith("care_mm") for head in heads)
assert not set(names) & set(CLASSIFIERS.module_dict)
for name, width in zip(names, (512, 512, 768, 512, 768)):
    head = CLASSIFIERS.build(dict(type=f"mmpretrain.{name}Head", num_classes=3, in_channels=width))
    assert type(head).__name__ == f"{name}Head"
"""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr


def test_a_classifier_trains_and_predicts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmpretrain.structures import DataSample

    cls = PEERS[name].cls
    monkeypatch.setattr(cls, "archs", {"t": replace(cls.archs["t"], depths=(1, 1, 1, 1))})
    model = PEERS[name].classifier(out_indices=(3,), drop_path_rate=0.1)
    samples = [DataSample().set_gt_label(i) for i in (0, 7)]
    losses = model.train().loss(torch.rand(2, 3, 64, 64), samples)
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    without = [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    with torch.no_grad():
        predicted = model.eval().predict(torch.rand(2, 3, 64, 64))
    assert predicted[0].pred_score.sum() == pytest.approx(1, abs=1e-4)
