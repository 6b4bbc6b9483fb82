"""A hook for the test of two processes: after every step the ranks hold the same parameters."""

from __future__ import annotations

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class EqualRanksHook(Hook):
    """Raise where a parameter differs from rank 0's; say how many steps were compared."""

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        assert dist.get_world_size() == 2
        for name, parameter in runner.model.named_parameters():
            reference = parameter.detach().clone()
            dist.broadcast(reference, src=0)
            if not torch.equal(reference, parameter):
                raise AssertionError(f"rank {dist.get_rank()}: {name} differs at {batch_idx}")

    def after_train(self, runner) -> None:
        runner.logger.info(f"ranks equal over {runner.iter} steps")
