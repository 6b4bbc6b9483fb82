"""CARE in many families of models: each trains one step, and predicts.

``CARE_MM_WRITE_DOCS=1 python -m pytest tests/swap/test_families.py`` writes the tables of
docs/compatibility.md; without the variable, the tests compare the page with their results.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from swap.compatibility_page import PATH, Page
from swap.families import ARCH, batch_for, build_model, predict, train_step
from swap.tables import FAMILIES, REFUSALS, Family, Refusal

from care_mm.errors import InputError
from care_mm.swap import Swap, read, swap_backbone, swap_text

HEADERS = {
    "supported": ("model", "config", "old backbone", "strides", "notes"),
    "refused": ("model", "config", "reason"),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Silence initialisation, which logs a line for every parameter."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    page = Page(HEADERS, notes=True)
    yield page
    page.write()


def comparable(node: object) -> object:
    """Return a config part without the ``_scope_`` that ``_base_ = 'mmdet::...'`` adds."""
    if isinstance(node, dict):
        return {key: comparable(value) for key, value in node.items() if key != "_scope_"}
    if isinstance(node, list | tuple):
        return type(node)(map(comparable, node))
    return node


class Mixture:
    """A stand-in for scikit-learn's mixture of two Gaussians: the lower and the upper half."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.middle = 0.0

    def fit(self, losses):
        self.middle = float(torch.as_tensor(losses).median())

    def predict(self, losses):
        return (losses[:, 0] > self.middle).astype(int)

    def score_samples(self, losses):
        return -losses[:, 0]


@pytest.fixture
def sklearn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace scikit-learn, which PAA needs to select positives and the stack does not have."""
    from mmdet.models.dense_heads import paa_head

    if paa_head.skm is None:
        module = type("mixture", (), {"GaussianMixture": Mixture})
        monkeypatch.setattr(paa_head, "skm", module)


def notes_of(family: Family, swap: Swap) -> list[str]:
    notes = []
    for path, remark in swap.remarks.items():
        part = next(key for key in reversed(path) if isinstance(key, str))
        notes.append(f"`{part}`: {remark}")
    if family.needs:
        notes.append(f"`{family.needs}` is needed for training.")
    return notes


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_trains_a_step_and_predicts(
    family: Family, page: Page, tmp_path: Path, sklearn: None
) -> None:
    torch.manual_seed(0)
    source = read(family.config)
    swap = swap_backbone(source.config, ARCH)

    out = tmp_path / "swapped.py"
    out.write_text(swap_text(swap, source, out), encoding="utf-8")
    written = Config.fromfile(out)
    assert comparable(written.to_dict()) == comparable(swap.config.to_dict())

    model = build_model(written, family.thinner)
    batch = batch_for(written, family.square)
    losses = train_step(model, batch)
    assert all(math.isfinite(loss) for loss in losses.values()), losses
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, grad in gradients.items() if grad is None] == []
    assert [name for name, grad in gradients.items() if not grad.isfinite().all()] == []
    used = range(max(model.backbone.out_indices) + 1)
    for part in ("stem", *(f"stages.{i}" for i in used)):
        assert any(
            grad.any() for name, grad in gradients.items() if name.startswith(f"backbone.{part}.")
        ), f"no gradient reaches {part}"

    sample = predict(model, batch)
    assert any(key.startswith("pred_") for key in sample.keys())  # noqa: SIM118, no dict

    strides = ", ".join(str(m.stride) for m in swap.new_maps)
    notes = ", ".join(map(page.number, notes_of(family, swap)))
    page.add("supported", family.name, f"`{family.config}`", swap.old_backbone, strides, notes)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_model_that_care_does_not_fit_into_is_refused(refusal: Refusal, page: Page) -> None:
    with pytest.raises(InputError, match=re.escape(refusal.reason)) as error:
        swap_backbone(read(refusal.config).config, ARCH)
    page.add("refused", refusal.name, f"`{refusal.config}`", str(error.value))


def test_the_page_has_no_other_rows() -> None:
    text = PATH.read_text(encoding="utf-8")
    models = re.findall(r"^\| ([^|]+) \| `mm", text, flags=re.M)
    assert models == [row.name for row in (*FAMILIES, *REFUSALS)]
