"""Folders of labels in every form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from label_forms import CONVERTED, FORMS

from care_mm.datasets.shapes import ensure_shapes


@pytest.fixture(scope="session")
def drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "shapes"
    return ensure_shapes(root, num_train=10, num_val=4, size=96, seed=3)


Make = Callable[[str], Path]


@pytest.fixture
def make(drawn_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return ``make(form)``, which makes the folder ``data`` in the current folder."""
    monkeypatch.chdir(tmp_path)

    def build(form: str) -> Path:
        if form in CONVERTED:
            pytest.importorskip("supervision")
        root = Path("data")
        FORMS[form](drawn_once, root)
        return root

    return build
