"""CARE in one family of models after the other: each trains a step, and predicts.

``CARE_MM_WRITE_DOCS=1 python -m pytest tests/swap/test_families.py`` writes the tables of
docs/compatibility.md; without it the tests hold that page to what they see.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from swap.families import ARCH, batch_for, build_model, predict, train_step
from swap.tables import FAMILIES, REFUSALS, Family, Refusal

from care_mm.errors import InputError
from care_mm.swap import Swap, read, swap_backbone, swap_text

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
WRITE = os.environ.get("CARE_MM_WRITE_DOCS") == "1"
HEADERS = {
    "works": ("model", "config", "in place of", "strides", "remarks"),
    "refused": ("model", "config", "why not"),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Initialisation logs a line for every parameter."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[str, dict[str, str]]]:
    """Table -> model -> its row; written to the page at the end if asked to."""
    rows: dict[str, dict[str, str]] = {name: {} for name in HEADERS}
    yield rows
    if WRITE:
        text = PAGE.read_text(encoding="utf-8")
        for name, header in HEADERS.items():
            lines = [f"| {' | '.join(header)} |\n", "|---" * len(header) + "|\n"]
            table = f"<!-- {name} -->\n{''.join((*lines, *rows[name].values()))}<!-- end -->"
            text = re.sub(
                rf"<!-- {name} -->.*?<!-- end -->", lambda _, t=table: t, text, flags=re.S
            )
        PAGE.write_text(text, encoding="utf-8")


def in_the_page(rows: dict[str, dict[str, str]], table: str, name: str, *cells: str) -> None:
    """Note a row, and hold the page to it."""
    row = rows[table][name] = f"| {' | '.join((name, *cells))} |\n"
    assert WRITE or row in PAGE.read_text(encoding="utf-8"), (
        f"docs/compatibility.md has not: {row}Run this file with CARE_MM_WRITE_DOCS=1"
    )


def comparable(node: object) -> object:
    """A config part without the marks that ``_base_ = 'mmdet::...'`` leaves."""
    if isinstance(node, dict):
        return {key: comparable(value) for key, value in node.items() if key != "_scope_"}
    if isinstance(node, list | tuple):
        return type(node)(map(comparable, node))
    return node


class Mixture:
    """In place of scikit-learn's mixture of two Gaussians: the lower half, and the upper."""

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
    """PAA's choice of positives needs scikit-learn, which the stack does not bring."""
    from mmdet.models.dense_heads import paa_head

    if paa_head.skm is None:
        module = type("mixture", (), {"GaussianMixture": Mixture})
        monkeypatch.setattr(paa_head, "skm", module)


def remarks_of(family: Family, swap: Swap) -> str:
    remarks = []
    for path, remark in swap.remarks.items():
        part = next(key for key in reversed(path) if isinstance(key, str))
        remarks.append(f"`{part}`: {remark[0].lower()}{remark[1:]}")
    if family.needs:
        remarks.append(f"Training needs {family.needs}.")
    return " ".join(remarks)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_trains_a_step_and_predicts(
    family: Family, rows: dict[str, dict[str, str]], tmp_path: Path, sklearn: None
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
        ), f"no gradient comes to {part}"

    sample = predict(model, batch)
    assert any(key.startswith("pred_") for key in sample.keys())  # noqa: SIM118, no dict

    strides = ", ".join(str(m.stride) for m in swap.new_maps)
    config = f"`{family.config}`"
    in_the_page(
        rows, "works", family.name, config, swap.old_backbone, strides, remarks_of(family, swap)
    )


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_model_that_care_does_not_fit_into_is_refused(
    refusal: Refusal, rows: dict[str, dict[str, str]]
) -> None:
    with pytest.raises(InputError, match=re.escape(refusal.reason)) as error:
        swap_backbone(read(refusal.config).config, ARCH)
    in_the_page(rows, "refused", refusal.name, f"`{refusal.config}`", str(error.value))


def test_the_page_has_no_other_rows() -> None:
    text = PAGE.read_text(encoding="utf-8")
    models = re.findall(r"^\| ([^|]+) \| `mm", text, flags=re.M)
    assert models == [row.name for row in (*FAMILIES, *REFUSALS)]
