"""The options and errors of the backbone; test_every_variant.py covers all variants."""

from __future__ import annotations

import importlib
from itertools import combinations

import golden
import pytest
import torch
from half import HALF
from mmcv.cnn.bricks import DropPath
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from care_mm import CARETransformer

SUBSETS = [subset for n in range(1, 5) for subset in combinations(range(4), n)]
CHANNELS = {
    "s0": (32, 64, 128, 1024),
    "s1": (32, 64, 128, 1024),
    "s2": (32, 64, 192, 1536),
}
TINY = dict(
    depths=(1, 2, 1),
    mem_dims=(4, 8, 12),
    interaction_ratios=((1, 2), (2, 2), (2, 3)),
    attn_head_dims=(None, 4, 6),
)
# S0 with fewer blocks: the golden weights of S0 fit, and compilers need seconds only.
SHALLOW = dict(
    depths=(1, 1, 1, 2),
    mem_dims=(8, 16, 32, 64),
    interaction_ratios=((2, 2), (2, 4), (4, 4), (4, 4)),
    attn_head_dims=(None, None, 16, 32),
)


def golden_backbone(arch: str, **kwargs) -> CARETransformer:
    """The backbone with the golden weights, in float64."""
    torch.manual_seed(0)
    backbone = CARETransformer(arch, layer_scale_init_value=0.5, **kwargs).double()
    own, weights = backbone.state_dict(), golden.backbone_weights(arch)
    backbone.load_state_dict({key: weights[key] for key in own if key in weights}, strict=False)
    return backbone


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def buffers(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the running statistics."""
    return {name: tensor.clone() for name, tensor in module.named_buffers()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# Shapes


@torch.no_grad()
def test_input_beyond_a_multiple_of_the_stride_is_ignored() -> None:
    backbone = golden_backbone("s0").eval()
    x = torch.randn(1, 3, 33, 63, dtype=torch.float64)
    for out, cut in zip(backbone(x), backbone(x[..., :32, :60]), strict=True):
        assert torch.equal(out, cut)


@pytest.mark.parametrize("arch", golden.ARCHS)
def test_out_indices_select_from_the_same_features(arch: str) -> None:
    x = golden.inputs()[:1, :, :32, :64]
    with torch.no_grad():
        every = golden_backbone(arch).eval()(x)
        for out_indices in ((0,), (1, -2), (-3, -1)):
            backbone = golden_backbone(arch, out_indices=out_indices).eval()
            for out, i in zip(backbone(x), out_indices, strict=True):
                assert torch.equal(out, every[i])
            assert backbone.out_channels == tuple(CHANNELS[arch][i] for i in out_indices)
            assert backbone.out_strides == tuple((4, 8, 16, 32)[i] for i in out_indices)


@pytest.mark.parametrize("arch", golden.ARCHS)
@pytest.mark.parametrize("last", [0, 1, -2])
def test_stages_beyond_the_last_are_not_built(last: int, arch: str) -> None:
    keys = CARETransformer(arch, out_indices=(last,)).state_dict()
    built = last % 4
    assert {int(key.split(".")[1]) for key in keys if key.startswith("stages.")} == set(
        range(built + 1)
    )
    # Being the last one does not make a stage the published stage 4.
    assert all(keys[key].shape == golden.backbone_weights(arch)[key].shape for key in keys)


@pytest.mark.parametrize("out_indices", [(), (4,), (-5,), (1, 0), (1, 1), (3, -1), (0, 1, 2, 7)])
def test_bad_out_indices_are_refused(out_indices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="out_indices"):
        CARETransformer("s0", out_indices=out_indices)


# Custom architectures


@pytest.mark.parametrize("expand_last", [True, False])
def test_custom_arch_with_another_number_of_stages(expand_last: bool) -> None:
    backbone = CARETransformer(ConfigDict(TINY), out_indices=(0, -1), expand_last=expand_last)
    assert [len(stage.blocks) for stage in backbone.stages] == [1, 2, 1]
    assert backbone.out_channels == (16, 144 if expand_last else 48)
    assert backbone.out_strides == (4, 16)
    assert [tuple(out.shape) for out in backbone(torch.randn(2, 3, 16, 32))] == [
        (2, backbone.out_channels[0], 4, 8),
        (2, backbone.out_channels[1], 1, 2),
    ]


def test_a_named_arch_is_the_dict_of_its_table() -> None:
    named = CARETransformer("S0").arch
    fields = ("depths", "mem_dims", "interaction_ratios", "attn_head_dims")
    given = CARETransformer({name: list(getattr(named, name)) for name in fields}).arch
    assert given == named


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(depths=(1, 2)), "depths"),
        (dict(depths=(1, 0, 1)), "depths"),
        (dict(mem_dims=(4, 8.0, 12)), "mem_dims"),
        (dict(mem_dims=(4, -8, 12)), "mem_dims"),
        (dict(interaction_ratios=((1, 2), (2, 2), (2, 0))), "interaction_ratios"),
        (dict(interaction_ratios=((1, 2), (2, 2), (2,))), "interaction_ratios"),
        (dict(interaction_ratios=((1, 2), (2, 2), (2, 2, 2))), "interaction_ratios"),
        (dict(attn_head_dims=(None, 3, 6)), r"attn_head_dims\[1\]"),
        (dict(attn_head_dims=(None, 4, 0)), r"attn_head_dims\[2\]"),
        (dict(widths=(1, 2, 3)), "widths"),
    ],
)
def test_errors_of_a_custom_arch_name_the_key(changes: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        CARETransformer({**TINY, **changes}, out_indices=(0,))


@pytest.mark.parametrize("key", TINY)
def test_a_custom_arch_needs_every_key(key: str) -> None:
    with pytest.raises(ValueError, match=f"missing keys .*{key}"):
        CARETransformer({k: v for k, v in TINY.items() if k != key}, out_indices=(0,))


# Errors


def test_unknown_arch_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'s9'.*s0, s1, s2"):
        CARETransformer("s9")


def test_unknown_keyword_is_named() -> None:
    with pytest.raises(TypeError, match="widen_factor"):
        CARETransformer("s0", widen_factor=2)
    with pytest.raises(TypeError, match="widen_factor"):
        MODELS.build(dict(type="CARETransformer", arch="s0", widen_factor=2))


@pytest.mark.parametrize("frozen_stages", [-2, 5])
def test_bad_frozen_stages_is_named(frozen_stages: int) -> None:
    with pytest.raises(ValueError, match=f"frozen_stages={frozen_stages}"):
        CARETransformer("s0", frozen_stages=frozen_stages)


@pytest.mark.parametrize("shape", [(1, 4, 64, 64), (1, 1, 64, 64), (3, 64, 64)])
def test_wrong_channel_count_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"need \(B, 3, H, W\)"):
        CARETransformer("s0")(torch.zeros(shape))


@pytest.mark.parametrize(("out_indices", "least"), [((3,), 32), ((0, 2), 16), ((0,), 4)])
def test_too_small_an_input_names_the_minimum(out_indices: tuple[int, ...], least: int) -> None:
    backbone = CARETransformer("s0", out_indices=out_indices).eval()
    assert backbone(torch.zeros(1, 3, least, least))
    for size in ((least - 1, 64), (64, least - 1)):
        with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}.*at least {least}"):
            backbone(torch.zeros(1, 3, *size))


def test_other_numbers_of_input_channels() -> None:
    outs = CARETransformer("s0", in_channels=5)(torch.randn(2, 5, 32, 32))
    assert [out.shape[1] for out in outs] == list(CHANNELS["s0"])


# Gradients


def check_every_parameter_has_a_gradient(backbone: CARETransformer) -> None:
    sum(out.square().mean() for out in backbone.train()(torch.randn(2, 3, 32, 64))).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.numel() > 0, name
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("out_indices", SUBSETS)
def test_every_parameter_gets_a_gradient_whatever_is_returned(out_indices: tuple) -> None:
    """DDP without ``find_unused_parameters`` needs this."""
    norm = dict(type="BN") if len(out_indices) % 2 else None
    check_every_parameter_has_a_gradient(
        CARETransformer("s0", out_indices=out_indices, out_norm_cfg=norm)
    )


# Checkpointing


def train_step(backbone: CARETransformer) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs and gradients of one step."""
    torch.manual_seed(1)  # drop path
    outs = backbone.train()(golden.inputs()[:, :, :32, :64])
    sum(out.square().mean() for out in outs).backward()
    grads = {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}
    return list(outs), grads


@pytest.mark.parametrize(
    "options", [dict(drop_path_rate=0.5), dict(frozen_stages=1), dict(norm_eval=True)], ids=str
)
def test_checkpointing_changes_nothing(options: dict) -> None:
    plain = golden_backbone("s0", **options)
    saving = golden_backbone("s0", with_cp=True, **options)
    calls = []
    saving.stages[-1].blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    before = buffers(plain)
    outs, grads = train_step(plain)
    saved_outs, saved_grads = train_step(saving)
    assert len(calls) == 2  # forward, and again in the backward pass
    assert all(torch.equal(out, ref) for out, ref in zip(saved_outs, outs, strict=True))
    assert saved_grads.keys() == grads.keys()
    for name, gradient in grads.items():
        torch.testing.assert_close(saved_grads[name], gradient, rtol=1e-10, atol=1e-12)
    assert same(buffers(saving), buffers(plain))
    assert same(buffers(plain), before) is options.get("norm_eval", False)


def test_checkpointing_counts_a_batch_once() -> None:
    """The buffers keep their identity, because an EMA refers to them."""
    backbone = golden_backbone("s0", with_cp=True, norm_cfg=dict(type="SyncBN"))
    identities = {name: id(buffer) for name, buffer in backbone.named_buffers()}
    train_step(backbone)
    assert {name: id(buffer) for name, buffer in backbone.named_buffers()} == identities
    assert all(norm.num_batches_tracked == 1 for norm in batch_norms(backbone))


# Freezing


@pytest.mark.parametrize("norm_type", ["BN", "SyncBN"])
@pytest.mark.parametrize("frozen_stages", range(-1, 5))
def test_frozen_stages_hold_after_train(frozen_stages: int, norm_type: str) -> None:
    backbone = CARETransformer(
        "s0", frozen_stages=frozen_stages, norm_cfg=dict(type=norm_type), drop_path_rate=0.1
    )
    frozen = [backbone.stem] if frozen_stages >= 0 else []
    frozen += [backbone.stages[i] for i in range(max(frozen_stages, 0))]
    thawed = [part for part in (backbone.stem, *backbone.stages) if part not in frozen]
    for mode in (True, False, True):
        backbone.train(mode)
    kept = [buffers(part) for part in frozen]
    changing = [buffers(part) for part in thawed]
    backbone(torch.randn(2, 3, 32, 64))

    for part, before in zip(frozen, kept, strict=True):
        assert not any(p.requires_grad for p in part.parameters())
        assert not any(module.training for module in part.modules())
        assert same(buffers(part), before)
    for part, before in zip(thawed, changing, strict=True):
        assert all(p.requires_grad for p in part.parameters())
        assert all(module.training for module in part.modules())
        after = buffers(part)
        assert not any(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("norm_type", ["BN", "SyncBN"])
def test_norm_eval_holds_after_train_and_keeps_affine_trainable(norm_type: str) -> None:
    norm_cfg = dict(type=norm_type)
    backbone = CARETransformer("s0", norm_eval=True, norm_cfg=norm_cfg, out_norm_cfg=norm_cfg)
    for mode in (True, False, True):
        backbone.train(mode)
    before = buffers(backbone)
    sum(out.square().mean() for out in backbone(torch.randn(2, 3, 32, 64))).backward()

    norms = batch_norms(backbone)
    assert norms
    assert same(buffers(backbone), before)
    for norm in norms:
        assert not norm.training
        assert norm.weight.grad is not None
        assert norm.bias.grad is not None
    assert all(module.training for module in backbone.modules() if module not in norms)


def test_norms_are_of_the_type_asked_for() -> None:
    backbone = CARETransformer(
        "s0", norm_cfg=dict(type="SyncBN"), out_norm_cfg=dict(type="GN", num_groups=4)
    )
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in batch_norms(backbone))
    assert [type(norm) for norm in backbone.out_norms.values()] == [nn.GroupNorm] * 4
    frozen_affine = CARETransformer("s0", norm_cfg=dict(type="BN", requires_grad=False))
    assert not any(p.requires_grad for n in batch_norms(frozen_affine) for p in n.parameters())


@pytest.mark.parametrize("out_indices", [(0,), (1, 3)])
def test_output_norms_normalise_what_is_returned(out_indices: tuple[int, ...]) -> None:
    backbone = golden_backbone("s0", out_indices=out_indices, out_norm_cfg=dict(type="BN"))
    plain = golden_backbone("s0", out_indices=out_indices).train()
    x = golden.inputs()
    assert set(backbone.out_norms) == {str(i) for i in out_indices}
    for out, feature in zip(backbone.train()(x), plain(x), strict=True):
        expected = nn.functional.batch_norm(feature, None, None, training=True)
        torch.testing.assert_close(out, expected)


# Precision


@pytest.mark.parametrize("dtype", HALF)
def test_training_under_autocast_gives_finite_gradients(dtype: torch.dtype) -> None:
    backbone = golden_backbone("s0", with_cp=True).float().train()
    with torch.autocast("cpu", dtype=dtype):
        outs = backbone(golden.inputs()[:, :, :32, :64].float())
        loss = sum(out.float().square().mean() for out in outs)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in backbone.parameters())


# Drop path


@pytest.mark.parametrize("arch", golden.ARCHS)
def test_drop_path_rate_grows_linearly_over_all_blocks(arch: str) -> None:
    backbone = CARETransformer(arch, drop_path_rate=0.3, expand_last=False)
    blocks = [block for stage in backbone.stages for block in stage.blocks]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    steps = len(blocks) - 1
    assert rates == pytest.approx([0.3 * i / steps for i in range(steps + 1)])
    # Stages that are not built do not change the rates of the others.
    short = CARETransformer(arch, drop_path_rate=0.3, out_indices=(0,))
    assert short.stages[0].blocks[-1].drop_path.drop_prob == rates[len(short.stages[0].blocks) - 1]


def test_drop_path_drops_in_training_only_and_never_the_first_block() -> None:
    dropping, plain = golden_backbone("s0", drop_path_rate=0.9), golden_backbone("s0")
    x = golden.inputs()[:, :, :32, :64]
    with torch.no_grad():
        outs, expected = dropping.eval()(x), plain.eval()(x)
        assert all(torch.equal(out, ref) for out, ref in zip(outs, expected, strict=True))
        first = [net.train().stages[0].blocks[0](net.stem(x)) for net in (dropping, plain)]
        assert torch.equal(*first)
        assert not torch.allclose(dropping(x)[-1], plain(x)[-1])


def test_no_drop_path_by_default() -> None:
    assert not any(isinstance(part, DropPath) for part in CARETransformer("s0").modules())


# Initialisation


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        backbone = CARETransformer("s0")
        backbone.init_weights()
        states.append(backbone.state_dict())
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


@pytest.mark.parametrize("arch", golden.ARCHS)
def test_initial_values(arch: str) -> None:
    torch.manual_seed(0)
    backbone = CARETransformer(arch, layer_scale_init_value=0.25, expand_last=False)
    weights = []
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            weights.append(module.weight.detach().flatten())
            assert not module.bias.any()
        elif isinstance(module, _BatchNorm):
            assert (module.weight == 1).all()
            assert not module.bias.any()
            assert (module.eps, module.momentum) == (1e-5, 0.1)
    weights = torch.cat(weights)
    assert float(weights.std()) == pytest.approx(0.02, rel=0.01)
    assert float(weights.mean()) == pytest.approx(0, abs=1e-4)
    gammas = [block.gamma for stage in backbone.stages for block in stage.blocks]
    assert all((gamma == 0.25).all() for gamma in gammas)
    assert (CARETransformer(arch).stages[0].blocks[0].gamma == 1e-6).all()


# Registration


@pytest.mark.parametrize("scope", ["mmengine", "mmdet", "mmseg", "mmpretrain"])
def test_every_scope_builds_it_from_a_config(scope: str) -> None:
    registry = importlib.import_module(f"{scope}.registry").MODELS
    config = ConfigDict(
        type="CARETransformer", arch=TINY, out_indices=[0, 1], norm_cfg=dict(type="BN", eps=1e-3)
    )
    backbone = registry.build(config)
    assert type(backbone) is CARETransformer
    assert backbone.stem.norm.eps == 1e-3
    assert MODELS.get("CARETransformer") is CARETransformer


# Compilers


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("compiler", ["trace", "export", "compile"])
@torch.no_grad()
def test_compiled_backbone_agrees(compiler: str, deploy: bool) -> None:
    """The graph has no breaks; torch's code generator is not tested."""
    backbone = CARETransformer(SHALLOW)
    weights = {key: golden.backbone_weights("s0")[key] for key in backbone.state_dict()}
    backbone.load_state_dict(weights)
    backbone.eval()
    if deploy:
        backbone.switch_to_deploy()
    x = golden.inputs().float()
    if compiler == "trace":
        compiled = torch.jit.trace(backbone, x, check_trace=False)
    elif compiler == "export":
        compiled = torch.export.export(backbone, (x,)).module()
    else:
        compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    for out, reference in zip(compiled(x), backbone(x), strict=True):
        assert golden.relative_error(out, reference) <= 1e-5
