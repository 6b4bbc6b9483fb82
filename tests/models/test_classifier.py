"""Hard distillation: the loss equals the formula, and the teacher is not part of the student."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import ExponentialMovingAverage
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import care_mm.models.classifier  # noqa: F401  registers
from care_mm.errors import InputError
from care_mm.models.fold import switch_to_deploy

CLASSES, BATCH = 5, 8
ARCH = dict(
    depths=(1, 1, 1, 1),
    mem_dims=(4, 4, 8, 8),
    interaction_ratios=((1, 2), (1, 2), (2, 2), (2, 2)),
    attn_head_dims=(None, None, 4, 4),
)
TEACHER = dict(
    type="ImageClassifier",
    backbone=dict(type="CARETransformer", arch=ARCH, out_indices=(3,)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="CAREHead", num_classes=CLASSES, in_channels=64),
)


def build(**kwargs):
    model = MODELS.build(
        dict(
            type="CAREClassifier",
            data_preprocessor=dict(type="ClsDataPreprocessor", num_classes=CLASSES),
            backbone=TEACHER["backbone"],
            neck=TEACHER["neck"],
            head=dict(
                **TEACHER["head"],
                loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
            ),
            train_cfg=dict(
                augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]
            ),
            **kwargs,
        )
    )
    return model


def images_of(number: int) -> torch.Tensor:
    """Return images that random weights tell apart: (number, 3, 32, 32) uint8."""
    generator = torch.Generator().manual_seed(2)
    shades = torch.rand(number, 3, 1, 1, generator=generator)
    noise = torch.rand(number, 3, 32, 32, generator=generator)
    return (200 * shades + 55 * noise).to(torch.uint8)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A teacher's checkpoint in mmengine's format."""
    torch.manual_seed(1)
    model = MODELS.build(copy.deepcopy(TEACHER))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # so that outputs differ between images
    with torch.no_grad():  # centre the logits, so that predictions differ between images
        images = images_of(BATCH).float()
        for branch in (model.head.label, model.head.distill):
            pooled = model.eval().extract_feat(images)[-1]
            branch.fc.bias -= branch(pooled).mean(0)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, tmp_path / "teacher.pth")
    return str(tmp_path / "teacher.pth")


@pytest.fixture
def student(checkpoint: str):
    torch.manual_seed(0)
    model = build(teacher=copy.deepcopy(TEACHER), teacher_checkpoint=checkpoint)
    model.init_weights()
    return model.train()


@pytest.fixture
def batch() -> dict:
    images = images_of(BATCH)
    samples = [DataSample().set_gt_label(i % CLASSES) for i in range(BATCH)]
    return {"inputs": images, "data_samples": samples}


def smoothed_cross_entropy(logits, targets, smoothing: float = 0.1):
    """Soft-target cross entropy as DeiT has it, written out."""
    targets = (1 - smoothing) * targets + smoothing / targets.shape[1]
    return -(targets * logits.log_softmax(1)).sum(1).mean()


def test_the_loss_is_the_formula(student, batch: dict) -> None:
    data = student.data_preprocessor(batch, training=True)
    mixed, samples = data["inputs"], data["data_samples"]
    targets = torch.stack([sample.gt_score for sample in samples])
    assert ((targets > 0) & (targets < 1)).any(), "nothing was mixed"
    losses = student(mixed, samples, mode="loss")

    label, distill = student.head.branches(student.extract_feat(mixed))
    with torch.no_grad():
        seen = student.teacher.model.eval()(mixed, mode="tensor").argmax(1)
    assert len(set(seen.tolist())) > 1, "a teacher that sees one class everywhere shows nothing"
    expected = (
        0.5 * smoothed_cross_entropy(label, targets),
        0.5 * F.nll_loss(distill.log_softmax(1), seen),
    )
    torch.testing.assert_close((losses["loss_label"], losses["loss_distill"]), expected)
    total, _ = student.parse_losses(losses)
    torch.testing.assert_close(total, sum(expected))


def test_without_a_teacher_both_heads_learn_the_labels(batch: dict) -> None:
    torch.manual_seed(0)
    model = build().train()
    data = model.data_preprocessor(batch, training=True)
    losses = model(**data, mode="loss")
    targets = torch.stack([sample.gt_score for sample in data["data_samples"]])
    heads = model.head.branches(model.extract_feat(data["inputs"]))
    expected = [0.5 * smoothed_cross_entropy(logits, targets) for logits in heads]
    torch.testing.assert_close([losses["loss_label"], losses["loss_distill"]], expected)


def test_gradients_reach_both_heads_and_no_teacher(student, batch: dict) -> None:
    before = copy.deepcopy(student.teacher.model.state_dict())
    data = student.data_preprocessor(batch, training=True)
    total, _ = student.parse_losses(student(**data, mode="loss"))
    total.backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None for p in student.teacher.model.parameters())
    after = student.teacher.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "its statistics moved"


def test_the_teacher_is_no_part_of_the_student(student) -> None:
    plain = build()
    assert list(student.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in student.named_parameters()] == [n for n, _ in plain.named_parameters()]
    average = ExponentialMovingAverage(student)
    assert len(list(average.module.parameters())) == len(list(plain.parameters()))
    assert average.module.teacher is student.teacher, "the moving average copied the teacher"
    student.train()
    assert not student.teacher.model.training


def test_a_teacher_of_timms_reads_timms_own_names(tmp_path: Path, batch: dict) -> None:
    import timm

    file = str(tmp_path / "timm.pth")
    torch.save(timm.create_model("test_resnet", num_classes=CLASSES).state_dict(), file)
    config = dict(type="TimmClassifier", model_name="test_resnet", num_classes=CLASSES)
    model = build(teacher=config, teacher_checkpoint=file)
    data = model.data_preprocessor(batch, training=True)
    assert model(**data, mode="loss")["loss_distill"].isfinite()
    weights = torch.load(file)
    for name, value in model.teacher.model.model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_teacher_with_random_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="random weights"):
        build(teacher=copy.deepcopy(TEACHER)).init_weights()


def test_a_teacher_that_does_not_fit_is_refused(checkpoint: str) -> None:
    config = copy.deepcopy(TEACHER)
    config["head"]["num_classes"] = CLASSES + 1
    with pytest.raises(InputError, match="does not fit the teacher"):
        build(teacher=config, teacher_checkpoint=checkpoint).init_weights()


def test_testing_needs_no_teacher(batch: dict) -> None:
    model = build(teacher=copy.deepcopy(TEACHER), teacher_checkpoint="missing.pth").eval()
    data = model.data_preprocessor(batch)
    assert len(model(**data, mode="predict")) == BATCH


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@torch.no_grad()
def test_a_deployed_classifier_equals_the_one_with_two_heads(
    dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(3)
    model = build()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if "num_batches" not in name:
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else tensor.normal_(0, 0.3))
    model = model.to(dtype).eval()
    images = torch.randn(2, 3, 64, 96, dtype=dtype)
    expected = model(images, mode="tensor")
    assert model.head.label.fc.weight.shape == model.head.distill.fc.weight.shape
    for _ in range(2):
        switch_to_deploy(model)
        logits = model(images, mode="tensor")
        assert (logits - expected).abs().max() <= tolerance * expected.abs().max()
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules())

    deployed = dict(TEACHER, backbone=dict(TEACHER["backbone"], deploy=True))
    built = MODELS.build(dict(deployed, head=dict(TEACHER["head"], deploy=True))).to(dtype).eval()
    built.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(built(images, mode="tensor"), logits)
    with pytest.raises(RuntimeError, match="no branches left to train"):
        model.head.branches((torch.rand(1, 64, dtype=dtype),))
