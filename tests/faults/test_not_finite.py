"""NaN or infinity in a loss or gradient ends a job before the step, and the error names it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_job import error_of, finish, told

from care_mm.checkpoint.reading import read_checkpoint


@pytest.mark.parametrize("at", [1, 6])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_run_ends_before_the_step(where: str, at: int, tmp_path: Path) -> None:
    work_dir = tmp_path / "run"
    assert finish(work_dir, nan_at=at, nan_in=where, rounds=2) == 2
    line = error_of(work_dir)
    assert f"iteration {at}: " in line
    if where == "loss":
        assert "loss_extra is nan" in line and "loss_label" not in line
    else:
        assert "the gradient of head.bias is not finite" in line
    dump = torch.load(work_dir / f"nonfinite_iter_{at}.pth", weights_only=True)
    assert (len(dump["batch"]["inputs"]), dump["iteration"]) == (3, at)
    for sample in dump["batch"]["data_samples"]:
        assert sample["img_path"] in line
    assert len(told(work_dir)) == at - 1, "the step was taken"
    for file in work_dir.glob("epoch_*.pth"):
        assert all(torch.isfinite(v).all() for v in read_checkpoint(file)["state_dict"].values())
