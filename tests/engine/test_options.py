"""Options of the commands change a config as their help says; see also tests/commands."""

from __future__ import annotations

from mmengine.config import Config

from care_mm.engine.options import use_auto_scale_lr


def test_learning_rate_counts_accumulated_batches() -> None:
    config = Config(dict(auto_scale_lr=dict(enable=False, base_batch_size=16)))
    config.optim_wrapper = dict(type="OptimWrapper", accumulative_counts=4)
    use_auto_scale_lr(config)
    assert config.auto_scale_lr == dict(enable=True, base_batch_size=4)
