"""The demo in two processes, which draw the data and train on batches without objects."""

from __future__ import annotations

from pathlib import Path

from commands.conftest import REPOSITORY, Run

CONFIG = REPOSITORY / "configs" / "shapes" / "maskrcnn_care_s0_shapes.py"
DRAW = dict(num_train=8, num_val=2, size=96)
SETTINGS = f"""
_base_ = {str(CONFIG)!r}
custom_imports = dict(
    imports=['care_mm', 'care_mm.report.summary', 'care_mm.datasets.shapes.layouts', 'equal_ranks'])
train_dataloader = dict(batch_size=2, dataset=dict(draw={DRAW}))
val_dataloader = dict(batch_size=1, dataset=dict(draw={DRAW}))
train_cfg = dict(max_epochs=2)
custom_hooks = [
    dict(type='BareBatchHook'), dict(type='EqualRanksHook'), dict(type='SummaryHook')]
"""


def test_two_processes_stay_equal_over_bare_batches(tmp_path: Path, run: Run, monkeypatch) -> None:
    config = tmp_path / "two.py"
    config.write_text(SETTINGS)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    args = (config, "--launcher", "pytorch", "--work-dir", "run")
    result = run("tools/train.py", *args, cwd=tmp_path, processes=2)
    assert result.returncode == 0, result.stderr
    for line in ("1 of 2 images", "rank 1 alone", "2 of 2 images", "0 of 2 images"):
        assert f"without objects: {line}" in result.stdout
    assert "ranks equal over 4 steps" in result.stdout  # 8 images, 2 x 2 a step, 2 epochs
    assert (tmp_path / "data" / "shapes" / "coco").is_dir(), "the data are not drawn"
    assert (tmp_path / "run" / "predictions.png").is_file()
