"""The paper's ablations: the meaning of each switch, its checkpoints and its configs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn
from variants import CONFIGS, SWITCHES, TINY, name_of

from care_mm import CARETransformer
from care_mm.errors import InputError
from care_mm.models.arch import ARCHS, Arch
from care_mm.models.layers import AxialConv, CAREBlock, TokenMixer

ROOT = Path(__file__).parents[2]
every_ablation = pytest.mark.parametrize("switches", SWITCHES, ids=name_of)


def backbone(switches: dict, **options) -> CARETransformer:
    torch.manual_seed(0)
    options = {"out_indices": (0, 1, 2), "layer_scale_init_value": 0.5, **options}
    return CARETransformer({**TINY, **switches}, **options)


# Meaning of the switches


def block(mem_dim: int = 4, head_dim: int | None = None, **switches) -> CAREBlock:
    torch.manual_seed(0)
    layer = CAREBlock(
        mem_dim,
        (2, 3),
        head_dim,
        nn.BatchNorm2d,
        nn.GELU,
        layer_scale_init_value=0.5,
        **switches,
    )
    return layer.double().eval()


@pytest.mark.parametrize("names", [("inter1",), ("inter2",), ("inter1", "inter2")], ids="-".join)
@torch.no_grad()
def test_a_block_without_an_interaction_is_one_whose_projection_is_zero(names: tuple) -> None:
    full, without = block(), block(**dict.fromkeys(names, False))
    for name in names:
        getattr(full, name).fc2.weight.zero_()
        getattr(full, name).fc2.bias.zero_()
    without.load_state_dict({key: full.state_dict()[key] for key in without.state_dict()})
    assert not any(key.startswith(names) for key in without.state_dict())
    x = torch.randn(2, 16, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(without(x), full(x), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_block_without_memory_is_one_whose_inter2_does_not_use_it() -> None:
    full, without = block(), block(memory=False)
    without.token_mixer, without.inter1 = full.token_mixer, full.inter1
    hidden, wide, narrow = 3 * 12, full.inter2, without.inter2
    for parameter in wide.parameters():
        parameter.zero_()
    wide.norm.weight[4:], wide.norm.bias[4:] = narrow.norm.weight, narrow.norm.bias
    for conv, other, rows, columns in (
        (wide.fc1, narrow.fc1, slice(hidden), slice(4, None)),
        (wide.dwconv, narrow.dwconv, slice(hidden), slice(None)),
        (wide.fc2, narrow.fc2, slice(4, None), slice(hidden)),
    ):
        conv.weight[rows, columns], conv.bias[rows] = other.weight, other.bias
    x = torch.randn(2, 16, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(without(x[:, 4:]), full(x)[:, 4:], rtol=1e-12, atol=1e-12)


def test_a_block_without_inter2_has_nothing_to_expand() -> None:
    with pytest.raises(ValueError, match="Inter2"):
        block(inter2=False, expand=True)


@pytest.mark.parametrize("head_dim", [None, 4])
@torch.no_grad()
def test_symmetrical_decoupling_gives_half_to_the_global_branch(head_dim: int | None) -> None:
    mixer = TokenMixer(8, head_dim, "symmetrical").double()
    x, groups = torch.randn(1, 16, 5, 7, dtype=torch.float64), (8, 4, 4)
    assert mixer.feature_dim == 16
    before = mixer(x).split(groups, dim=1)
    for group in range(3):
        changed = list(x.split(groups, dim=1))
        changed[group] = changed[group] + torch.randn_like(changed[group])
        after = mixer(torch.cat(changed, dim=1)).split(groups, dim=1)
        for other, pair in enumerate(zip(before, after, strict=True)):
            assert torch.equal(*pair) == (other != group)


@pytest.mark.parametrize("head_dim", [None, 4])
@torch.no_grad()
def test_stacked_sends_all_channels_through_both_kinds_of_branch(head_dim: int | None) -> None:
    mixer = TokenMixer(8, head_dim, "stacked").double()
    x = torch.randn(1, 24, 5, 7, dtype=torch.float64)
    for conv in (mixer.local3, mixer.local7):
        identity(conv)
    expected = mixer.global_branch(x)
    assert expected.shape == x.shape
    torch.testing.assert_close(mixer(x), expected)  # convolutions out of the way: global alone

    first = TokenMixer(8, None, "stacked").double()
    identity(first.global_branch.vertical)
    for parameter in first.global_branch.horizontal.parameters():
        parameter.zero_()
    assert isinstance(first.global_branch, AxialConv)
    expected = torch.cat((first.local3(x[:, :12]), first.local7(x[:, 12:])), dim=1)
    torch.testing.assert_close(first(x), expected)  # the other way round: convolutions alone


def identity(conv: nn.Conv2d) -> None:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    conv.weight[:, :, conv.weight.shape[2] // 2, conv.weight.shape[3] // 2] = 1


def test_attention_can_be_in_every_stage() -> None:
    model = CARETransformer(dict(base="s0", depths=(1, 1, 1, 1), attn_head_dims=(4, 8, 16, 32)))
    branches = [stage.blocks[0].token_mixer.global_branch for stage in model.stages]
    assert [branch.num_heads for branch in branches] == [2, 2, 2, 2]


# The dict


def test_a_base_supplies_what_is_not_given() -> None:
    assert Arch.get(dict(base="s2")) == Arch.get("s2")
    assert Arch.get(dict(base="S1", mem_dims=[16, 32, 64, 128])).mem_dims == (16, 32, 64, 128)
    names = ("depths", "mem_dims", "interaction_ratios", "attn_head_dims")
    spelt_out = {name: getattr(ARCHS["s0"], name) for name in names}
    assert Arch.get({**spelt_out, "memory": False}) == Arch.get(dict(base="s0", memory=False))


def test_the_symmetrical_config_keeps_the_width_of_the_features() -> None:
    arch = Config.fromfile(ROOT / "configs/ablation/care_s1_symmetrical.py").model.backbone.arch
    assert Arch.get(arch).feature_dims == ARCHS["s1"].feature_dims


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(base="s9"), r"'s9'.*s0, s1, s2"),
        (dict(base="s0", memories=False), r"unknown keys \['memories'\]"),
        (dict(memory=False), r"missing keys \['attn_head_dims', 'depths'.*base"),
        (dict(base="s0", memory=0), "memory=0 must be True or False"),
        (dict(base="s0", inter2="no"), "inter2='no' must be True or False"),
        (dict(base="s0", decoupling="serial"), "'serial'.*asymmetrical, symmetrical, stacked"),
        (dict(base="s0", decoupling="stacked", mem_dims=(8, 15, 32, 64)), r"mem_dims\[1\]=15"),
        (dict(base="s0", decoupling="symmetrical", mem_dims=(9, 16, 32, 64)), r"mem_dims\[0\]=9"),
        (dict(base="s0", attn_head_dims=(None, None, 24, 32)), r"attn_head_dims\[2\]=24"),
    ],
)
def test_errors_of_the_dict_name_the_key(changes: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Arch.get(changes)


def test_a_stacked_head_has_to_divide_the_width_of_all_features() -> None:
    changes = dict(base="s0", attn_head_dims=(None, None, 24, 32))
    assert Arch.get({**changes, "decoupling": "stacked"}).feature_dims[2] == 96


# Checkpoints


@every_ablation
@pytest.mark.parametrize("expand_last", [True, False])
def test_an_ablations_own_weights_load_and_are_needed_in_full(
    expand_last: bool, switches: dict, tmp_path: Path
) -> None:
    """ImageNet weights are those of the expanding model, whose last block may lack a gamma."""
    weights = backbone(switches).state_dict()
    path = tmp_path / "own.pth"
    torch.save({"state_dict": weights}, path)
    pretrained = dict(type="Pretrained", checkpoint=str(path))
    model = CARETransformer(
        {**TINY, **switches}, out_indices=(2,), expand_last=expand_last, init_cfg=pretrained
    )
    model.init_weights()
    shared = model.state_dict().keys() & weights.keys()
    assert all(torch.equal(model.state_dict()[key], weights[key]) for key in shared)
    fresh = {"gamma", "inter2.fc2.weight", "inter2.fc2.bias"}
    expected = fresh if switches["inter2"] and not expand_last else set()
    assert model.fresh_keys == {f"stages.2.blocks.1.{name}" for name in expected}

    needed = "token_mixer.local7.bias" if switches["inter2"] else "gamma"
    del weights[f"stages.2.blocks.1.{needed}"]
    torch.save({"state_dict": weights}, path)
    with pytest.raises(InputError, match="missing"):
        model.init_weights()


@pytest.mark.parametrize("switches", SWITCHES[1:], ids=name_of)
def test_weights_of_the_published_arch_are_refused(switches: dict, tmp_path: Path) -> None:
    torch.save({"state_dict": backbone({}).state_dict()}, tmp_path / "full.pth")
    pretrained = dict(type="Pretrained", checkpoint=str(tmp_path / "full.pth"))
    with pytest.raises(InputError, match="does not fit"):
        backbone(switches, init_cfg=pretrained).init_weights()


# Configs


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_differs_from_its_base_in_backbone_and_head_width_only(path: Path) -> None:
    size = path.stem.split("_")[1]
    config, base = Config.fromfile(path), Config.fromfile(ROOT / f"configs/care_{size}_imagenet.py")
    assert config.model.backbone.arch.base == base.model.backbone.arch == size
    arch = Arch.get(config.model.backbone.arch)
    assert arch != ARCHS[size]
    model = CARETransformer(config.model.backbone.arch, out_indices=(3,))
    assert config.model.head.in_channels == model.out_channels[-1]
    config.model.backbone.arch = base.model.backbone.arch
    config.model.head.in_channels = base.model.head.in_channels
    assert config.to_dict() == base.to_dict()


def test_there_is_a_config_for_each_of_the_papers_ablations() -> None:
    assert {path.stem for path in CONFIGS} >= {
        "care_s0_no_inter1",
        "care_s0_no_inter2",
        "care_s0_no_interaction",
        "care_s0_no_memory",
        "care_s1_symmetrical",
        "care_s1_stacked",
        "care_s2_stacked",
        "care_s1_attention_everywhere",
    }
