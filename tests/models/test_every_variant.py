"""Requirements for every variant of CARE, of any size and with any switches.

The variants are the published sizes, the ablations of ``configs/ablation`` with fewer blocks, and
small models with every combination of the switches. Weights, statistics and layer scales are drawn
so that no mistake hides.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import golden
import pytest
import torch
from half import HALF
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from variants import VARIANTS

from care_mm import CARETransformer
from care_mm.models.arch import Arch

PUBLISHED_CHANNELS = {
    "s0": (32, 64, 128, 1024),
    "s1": (32, 64, 128, 1024),
    "s2": (32, 64, 192, 1536),
}
EXACT, SINGLE = 1e-10, 1e-5


CASES = [
    pytest.param({**options, "expand_last": expand_last}, id=f"{name}-{expand_last}")
    for name, options in VARIANTS.items()
    # Without Inter2 both are the same model.
    for expand_last in ((True, False) if Arch.get(options["arch"]).inter2 else (True,))
]


@dataclass
class Variant:
    """A variant, and what its tests share.

    Attributes:
        options: Arguments of the backbone.
    """

    options: dict[str, Any]

    @cached_property
    def arch(self) -> Arch:
        return Arch.get(self.options["arch"])

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Well-conditioned weights in float64."""
        with torch.device("meta"):
            shapes = CARETransformer(**self.options).state_dict()
        return {key: torch.as_tensor(golden.draw(key, v.shape)) for key, v in shapes.items()}

    @cached_property
    def outputs(self) -> tuple[Tensor, ...]:
        """The outputs in evaluation mode."""
        with torch.no_grad():
            return self.build().eval()(golden.inputs())

    @cached_property
    def train_step(self) -> tuple[CARETransformer, list[Tensor]]:
        """The model after one training step, and its outputs."""
        return train_step(self.build())

    @property
    def channels(self) -> tuple[int, ...]:
        """The channels of the stages, from the words of the paper."""
        arch = self.arch
        groups = (2 if arch.decoupling == "symmetrical" else 3) + arch.memory
        channels = [groups * mem_dim for mem_dim in arch.mem_dims]
        if self.options["expand_last"] and arch.inter2:
            channels[-1] *= arch.interaction_ratios[-1][1]
        return tuple(channels)

    def build(self, **options: Any) -> CARETransformer:
        """Build the backbone with the drawn weights, in float64."""
        with torch.device("meta"):  # skips the initialisation
            model = CARETransformer(**self.options, **options)
        weights = {key: value.clone() for key, value in self.weights.items()}
        model.load_state_dict(weights, assign=True)
        return model.train()


@pytest.fixture(scope="module", params=CASES)
def variant(request: pytest.FixtureRequest) -> Variant:
    return Variant(request.param)


def train_step(model: CARETransformer) -> tuple[CARETransformer, list[Tensor]]:
    outs = model(golden.inputs()[:, :, :64, :64])
    sum(out.square().mean() for out in outs).backward()
    return model, [out.detach() for out in outs]


def batch_norms(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def check_close(outs: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    for out, reference in zip(outs, expected, strict=True):
        assert out.isfinite().all()
        assert golden.relative_error(out, reference) <= tolerance


@torch.no_grad()
def test_outputs_have_the_declared_channels_and_strides(variant: Variant) -> None:
    model = variant.build().eval()
    assert model.out_channels == variant.channels
    assert model.out_strides == tuple(4 * 2**stage for stage in range(len(variant.channels)))
    arch = variant.options["arch"]
    if arch in golden.ARCHS and variant.options["expand_last"]:
        assert model.out_channels == PUBLISHED_CHANNELS[arch]
    for height, width in ((32, 32), (67, 45)):
        outs = model(torch.randn(1, 3, height, width, dtype=torch.float64))
        assert isinstance(outs, tuple)
        assert [tuple(out.shape) for out in outs] == [
            (1, channels, height // stride, width // stride)
            for channels, stride in zip(model.out_channels, model.out_strides, strict=True)
        ]
        assert all(out.isfinite().all() for out in outs)


def test_every_parameter_gets_a_finite_gradient_in_training(variant: Variant) -> None:
    model, _ = variant.train_step
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_every_parameter_matters(variant: Variant) -> None:
    """In evaluation mode, since training norms cancel a shift before them."""
    model, _ = train_step(variant.build().eval())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_checkpointing_changes_no_output_gradient_or_statistic(variant: Variant) -> None:
    plain, expected = variant.train_step
    model, outs = train_step(variant.build(with_cp=True))
    assert all(map(torch.equal, outs, expected))
    for (name, parameter), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-10, atol=1e-12, msg=name)
    for (name, buffer), other in zip(model.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(buffer, other), name


def test_frozen_stages_stay_frozen_in_training(variant: Variant) -> None:
    model = variant.build(frozen_stages=2)
    model.eval()
    model.train()
    model(golden.inputs()[:, :, :32, :64])
    for name, part in (("stem", model.stem), *model.stages.named_children()):
        frozen = name in ("stem", "0", "1")
        assert all(p.requires_grad is not frozen for p in part.parameters())
        assert all(norm.training is not frozen for norm in batch_norms(part))
        assert all(norm.num_batches_tracked == (not frozen) for norm in batch_norms(part))


@torch.no_grad()
def test_folding_changes_nothing(variant: Variant) -> None:
    model = variant.build().eval()
    for _ in range(2):  # a second call does nothing
        model.switch_to_deploy()
        assert not batch_norms(model)
        check_close(model(golden.inputs()), variant.outputs, EXACT)
    built = CARETransformer(**variant.options, deploy=True).double().eval()
    built.load_state_dict(model.state_dict(), strict=True)
    assert all(map(torch.equal, built(golden.inputs()), model(golden.inputs())))
    check_close(model.float()(golden.inputs().float()), variant.outputs, SINGLE)


@torch.no_grad()
def test_folding_changes_no_part(variant: Variant) -> None:
    """Compares single layers and blocks, where no later one can hide an error."""
    model = variant.build().eval()
    parts = [model.stem]
    for stage in model.stages:
        parts += [*stage.blocks] if stage.downsample is None else [stage.downsample, *stage.blocks]
    for part in parts:
        folded = copy.deepcopy(part)
        folded.switch_to_deploy()
        dim = sum(part.split) if hasattr(part, "split") else part.conv.in_channels
        x = torch.randn(1, dim, 4, 6, dtype=torch.float64)
        assert golden.relative_error(folded(x), part(x)) <= EXACT


@torch.no_grad()
def test_exported_program_agrees(variant: Variant) -> None:
    model = variant.build().float().eval()
    x = golden.inputs().float()
    program = torch.export.export(model, (x,))
    check_close(program.module()(x), variant.outputs, SINGLE)


@pytest.mark.parametrize("dtype", HALF)
@torch.no_grad()
def test_autocast_stays_close_to_float32(dtype: torch.dtype, variant: Variant) -> None:
    """The tolerance is three roundings of the dtype, relative to the largest value.

    The other attentions get four times as much: a cube, an exponential, and a ReLU that leaves
    little to divide by amplify the rounding of queries and keys, which the convolution returns.
    """
    tolerance = {torch.float16: 3e-3, torch.bfloat16: 3e-2}[dtype]
    if variant.arch.attention != "linear":
        tolerance *= 4
    model = variant.build().float().eval()
    dtypes = []
    model.stem.conv.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    with torch.autocast("cpu", dtype=dtype):
        outs = model(golden.inputs().float())
    assert dtypes == [dtype]
    check_close([out.float() for out in outs], variant.outputs, tolerance)
