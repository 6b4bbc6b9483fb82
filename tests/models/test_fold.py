"""Folding norms and scales into convolutions changes outputs by rounding only."""

from __future__ import annotations

import golden
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from care_mm import CARETransformer
from care_mm.models.fold import fold_norm_after, fold_norm_before, fold_scale_after, is_foldable

EXACT, SINGLE = 1e-10, 1e-5


def well_conditioned(module: nn.Module) -> nn.Module:
    """Draw statistics and scales of norms, so that a wrong fold shows."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 1.5)
            if part.affine:
                nn.init.normal_(part.weight, 1, 0.3)
                nn.init.normal_(part.bias, 0, 0.3)
    return module.double().eval()


def golden_backbone(arch: str, **kwargs) -> CARETransformer:
    """Return the backbone with the golden weights, and other well-conditioned ones."""
    torch.manual_seed(0)
    backbone = well_conditioned(CARETransformer(arch, layer_scale_init_value=0.5, **kwargs))
    own, weights = backbone.state_dict(), golden.backbone_weights(arch)
    backbone.load_state_dict({key: weights[key] for key in own if key in weights}, strict=False)
    return backbone


@torch.no_grad()
def outputs(backbone: CARETransformer) -> tuple[Tensor, ...]:
    return backbone(golden.inputs()[:1].to(backbone.stem.conv.weight.dtype))


def batch_norms(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (4, 4)])
@torch.no_grad()
def test_norms_fold_into_unpadded_convolutions(
    kernel: int, stride: int, affine: bool, bias: bool
) -> None:
    conv = nn.Conv2d(5, 7, kernel, stride, bias=bias)
    before = well_conditioned(nn.Sequential(nn.BatchNorm2d(5, affine=affine), conv))
    after = well_conditioned(nn.Sequential(conv, nn.BatchNorm2d(7, affine=affine)))
    x = torch.randn(2, 5, 8, 12, dtype=torch.float64)
    assert golden.relative_error(fold_norm_before(*before)(x), before(x)) <= EXACT
    assert golden.relative_error(fold_norm_after(*after)(x), after(x)) <= EXACT


@pytest.mark.parametrize("groups", [1, 5])
@torch.no_grad()
def test_norm_and_scale_fold_into_a_padded_or_grouped_convolution_before_them(groups: int) -> None:
    conv = nn.Conv2d(5, 10, 3, padding=1, groups=groups).double()
    pair = well_conditioned(nn.Sequential(conv, nn.BatchNorm2d(10)))
    x, scale = torch.randn(2, 5, 8, 6, dtype=torch.float64), torch.randn(10, dtype=torch.float64)
    assert golden.relative_error(fold_norm_after(*pair)(x), pair(x)) <= EXACT
    scaled = scale[:, None, None] * conv(x)
    assert golden.relative_error(fold_scale_after(conv, scale)(x), scaled) <= EXACT


@pytest.mark.parametrize("options", [dict(padding=1), dict(padding="same"), dict(groups=2)])
def test_norm_is_not_folded_into_a_padded_or_grouped_convolution_after_it(options: dict) -> None:
    with pytest.raises(ValueError, match="padding and groups"):
        fold_norm_before(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, **options))


def test_folds_do_not_change_their_arguments() -> None:
    pair = well_conditioned(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    kept = {name: tensor.clone() for name, tensor in pair.state_dict().items()}
    conv, norm = pair
    conv.requires_grad_(False)
    folds = fold_norm_after(conv, norm), fold_norm_before(norm, conv)
    folds += (fold_scale_after(conv, norm.weight),)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in pair.state_dict().items())
    assert not any(p.requires_grad for fold in folds for p in fold.parameters())


@pytest.mark.parametrize(
    ("norm", "foldable"),
    [
        (nn.BatchNorm2d(4), True),
        (nn.SyncBatchNorm(4), True),
        (nn.BatchNorm2d(4, track_running_stats=False), False),
        (nn.GroupNorm(2, 4), False),
        (nn.InstanceNorm2d(4, track_running_stats=True), False),
        (nn.Identity(), False),
    ],
)
def test_only_norms_with_fixed_statistics_are_foldable(norm: nn.Module, foldable: bool) -> None:
    assert is_foldable(norm) is foldable


@pytest.mark.parametrize("norm_type", ["BN", "SyncBN"])
@pytest.mark.parametrize("expand_last", [True, False])
def test_deploying_leaves_no_batch_norm_and_is_idempotent(
    expand_last: bool, norm_type: str
) -> None:
    backbone = golden_backbone("s0", expand_last=expand_last, norm_cfg=dict(type=norm_type))
    expected = outputs(backbone)
    assert batch_norms(backbone)
    for _ in range(2):
        backbone.switch_to_deploy()
        assert not batch_norms(backbone)
        for out, reference in zip(outputs(backbone), expected, strict=True):
            assert golden.relative_error(out, reference) <= EXACT


@pytest.mark.parametrize(
    "options", [dict(out_indices=(0, 2)), dict(out_indices=(0, 2), out_norm_cfg=dict(type="BN"))]
)
def test_deployed_state_loads_strictly_into_a_model_built_deployed(options: dict) -> None:
    backbone = golden_backbone("s0", **options)
    expected = outputs(backbone)
    backbone.switch_to_deploy()
    built = CARETransformer("s0", deploy=True, **options).double().eval()
    built.load_state_dict(backbone.state_dict(), strict=True)
    for out, same, reference in zip(outputs(built), outputs(backbone), expected, strict=True):
        assert torch.equal(out, same)
        assert golden.relative_error(out, reference) <= EXACT


def test_output_norms_are_kept_when_deployed() -> None:
    backbone = golden_backbone("s0", out_norm_cfg=dict(type="BN"), out_indices=(1, 3))
    expected = outputs(backbone)
    plain = outputs(golden_backbone("s0", out_indices=(1, 3)))
    backbone.switch_to_deploy()
    assert set(batch_norms(backbone)) == set(backbone.out_norms.values())
    for out, reference, unnormed in zip(outputs(backbone), expected, plain, strict=True):
        assert golden.relative_error(out, reference) <= EXACT
        assert golden.relative_error(unnormed, reference) > 0.01


def test_norms_that_cannot_fold_stay() -> None:
    backbone = golden_backbone("s0", norm_cfg=dict(type="GN", num_groups=4))
    expected = outputs(backbone)
    backbone.switch_to_deploy()
    assert any(isinstance(module, nn.GroupNorm) for module in backbone.modules())
    for out, reference in zip(outputs(backbone), expected, strict=True):
        assert golden.relative_error(out, reference) <= EXACT


def test_a_frozen_backbone_stays_frozen_when_deployed() -> None:
    backbone = CARETransformer("s0", frozen_stages=4)
    backbone.switch_to_deploy()
    assert not any(p.requires_grad for p in backbone.parameters())
