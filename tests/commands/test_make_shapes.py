"""`tools/make_shapes.py`: draws the data set, and refuses other settings in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import tool
from drawings import TINY, files

from care_mm.datasets.shapes import ensure_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_shapes(tmp_path_factory.mktemp("shapes") / "drawn", **TINY)


def test_the_command_draws_and_prints_the_folders(tmp_path: Path, capsys) -> None:
    numbers = ("--num-train", 2, "--num-val", 1, "--size", 64)
    tool.call("make_shapes", "--out", tmp_path / "shapes", *numbers)
    assert str(tmp_path / "shapes" / "coco") in capsys.readouterr().out
    assert ensure_shapes(tmp_path / "shapes", **TINY)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "num_train 2 (requested: 600)"),
        (["--num-val", "0"], "num_val"),
        (["--size", "32"], "size"),
    ],
)
def test_bad_settings_are_refused_in_one_line(
    shapes: Path, capsys, arguments: list[str], message: str
) -> None:
    before = files(shapes)
    assert message in tool.refusal(capsys, "make_shapes", "--out", shapes, *arguments)
    assert files(shapes) == before
