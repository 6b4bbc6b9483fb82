"""The model is the authors' model: outputs, gradients, parameters and multiply-adds."""

from __future__ import annotations

import golden
import pytest
import torch
from mmengine.analysis import FlopAnalyzer

from care_mm import CARETransformer
from care_mm.checkpoint import convert_official, is_official

TOLERANCE = 1e-6
# Parameters without and with both heads; GMACs at 224 x 224 as fvcore's counter, which mmengine
# carries, has them: convolutions, linear layers, attention products, and two per norm element.
PUBLISHED = {
    "s0": (5_285_904, 7_340_000, 0.7206),
    "s1": (7_548_328, 9_602_424, 1.0324),
    "s2": (16_401_144, 19_481_288, 1.9275),
}


class Classifier(torch.nn.Module):
    """Backbone, pooling and heads as mmpretrain's ImageClassifier joins them."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        from care_mm.models.classifier import CAREHead

        self.backbone = CARETransformer(arch)
        self.head = CAREHead(num_classes=1000, in_channels=self.backbone.out_channels[-1])

    def pooled(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.backbone(x)[-1].mean((2, 3)),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pooled(x))


@pytest.fixture(scope="module", params=golden.ARCHS)
def case(request):
    model = Classifier(request.param).double()
    model.load_state_dict(convert_official(golden.state_dict(request.param)), strict=True)
    return request.param, model, golden.arrays(request.param)


def test_evaluation_outputs(case) -> None:
    _, model, reference = case
    model.eval()
    with torch.no_grad():
        x = golden.inputs()
        outputs = {"stem": model.backbone.stem(x)}
        outputs |= {f"stage{i}": out for i, out in enumerate(model.backbone(x))}
        outputs["head"], outputs["dist_head"] = model.head.branches(model.pooled(x))
        outputs["logits"] = model(x)
    for name, output in outputs.items():
        assert output.shape == reference[name].shape, name
        assert golden.relative_error(output, reference[name]) <= TOLERANCE, name


def test_training_outputs_and_gradients(case) -> None:
    arch, model, reference = case
    model.load_state_dict(convert_official(golden.state_dict(arch)))
    model.train()
    x = golden.inputs().requires_grad_()
    label, distill = model.head.branches(model.pooled(x))
    loss = label.square().mean() + distill.square().mean()
    model.zero_grad()
    loss.backward()
    outputs = {"train_head": label, "train_dist_head": distill, "train_loss": loss}
    outputs["grad_input"] = x.grad
    for name, output in outputs.items():
        error = golden.relative_error(output.detach().reshape(-1), reference[name].reshape(-1))
        assert error <= TOLERANCE, name

    official = golden.gradient_norms(arch)
    ours = convert_official({key: torch.tensor(norm) for key, norm in official.items()})
    parameters = dict(model.named_parameters())
    assert set(ours) == set(parameters)
    for key, norm in ours.items():
        gradient = float(parameters[key].grad.norm())
        assert gradient == pytest.approx(float(norm), rel=1e-6, abs=1e-9), key


def test_parameters_and_multiply_adds(case) -> None:
    arch, model, _ = case
    backbone, total, gmacs = PUBLISHED[arch]
    assert sum(p.numel() for p in model.backbone.parameters()) == backbone
    assert sum(p.numel() for p in model.parameters()) == total
    counter = FlopAnalyzer(model.eval(), torch.zeros(1, 3, 224, 224, dtype=torch.float64))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert counter.total() / 1e9 == pytest.approx(gmacs, abs=5e-5)


@pytest.mark.parametrize("arch", golden.ARCHS)
def test_name_table_covers_the_authors_keys(arch: str) -> None:
    official = golden.state_dict(arch)
    assert is_official(official)
    converted = convert_official(official)
    assert len(converted) == len(official)
    model = Classifier(arch)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == {
        k: tuple(v.shape) for k, v in converted.items()
    }
