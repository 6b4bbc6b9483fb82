"""From file to file: what is looked at before anything is written."""

from __future__ import annotations

from pathlib import Path

import golden
import pytest
import torch

from care_mm.errors import InputError
from care_mm.swap import swap_file


@pytest.fixture
def small(tmp_path: Path) -> str:
    """A config that is quick to swap and run."""
    path = tmp_path / "small.py"
    path.write_text(
        "default_scope = 'mmseg'\n"
        "model = dict(\n"
        "    type='EncoderDecoder',\n"
        "    backbone=dict(type='ResNet', depth=18, out_indices=(0, 1, 2, 3)),\n"
        "    decode_head=dict(type='FCNHead', in_channels=512, in_index=3, channels=8,\n"
        "                     num_convs=1, num_classes=5))\n"
    )
    return str(path)


def test_weights_that_fit_are_accepted_and_others_are_not(small: str, tmp_path: Path) -> None:
    weights = tmp_path / "s0.pth"
    torch.save({k: v.float() for k, v in golden.state_dict("s0").items()}, weights)
    swap_file(small, tmp_path / "fits.py", "s0", str(weights))
    assert str(weights) in (tmp_path / "fits.py").read_text()
    with pytest.raises(InputError, match="does not fit"):
        swap_file(small, tmp_path / "other.py", "s1", str(weights))
    assert not (tmp_path / "other.py").exists()


def test_a_file_that_is_there_is_not_written_over(small: str, tmp_path: Path) -> None:
    out = tmp_path / "mine.py"
    out.write_text("work = 'of days'\n")
    with pytest.raises(InputError, match=r"mine\.py: exists already"):
        swap_file(small, out, "s0")
    assert out.read_text() == "work = 'of days'\n"


def test_only_a_python_file_is_written(small: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.py"):
        swap_file(small, tmp_path / "new.yaml", "s0")


def test_a_model_that_does_not_run_is_not_written(small: str, tmp_path: Path) -> None:
    text = Path(small).read_text().replace("num_convs=1", "num_convs='1'")
    Path(small).write_text(text)
    with pytest.raises(InputError, match=r"small\.py: EncoderDecoder with CARE .* does not run"):
        swap_file(small, tmp_path / "new.py", "s0")
    assert not (tmp_path / "new.py").exists()


def test_a_config_without_preprocessing_gets_it(small: str, tmp_path: Path) -> None:
    swap = swap_file(small, tmp_path / "new.py", "s0")
    assert swap.config.model.data_preprocessor.type == "SegDataPreProcessor"
    assert swap.config.model.data_preprocessor.bgr_to_rgb is True
