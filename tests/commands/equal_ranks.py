"""Hooks that empty batches of objects, and that compare the parameters of two processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class BareBatchHook(Hook):
    """Remove the objects of one image, of one rank's batch, and of all batches, in turn."""

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        samples, turn = data_batch["data_samples"], runner.iter % 4
        bare = (samples[:1], samples if dist.get_rank() == 1 else [], samples, [])[turn]
        for sample in bare:
            sample.gt_instances = sample.gt_instances[:0]
        where = "rank 1 alone" if turn == 1 else f"{len(bare)} of {len(samples)} images"
        runner.logger.info(f"without objects: {where}")


@HOOKS.register_module()
class EqualRanksHook(Hook):
    """Fail if a parameter differs from rank 0's; log how many steps were compared."""

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        assert dist.get_world_size() == 2
        for name, parameter in runner.model.named_parameters():
            reference = parameter.detach().clone()
            dist.broadcast(reference, src=0)
            if not torch.equal(reference, parameter):
                raise AssertionError(f"rank {dist.get_rank()}: {name} differs at {batch_idx}")

    def after_train(self, runner) -> None:
        runner.logger.info(f"ranks equal over {runner.iter} steps")
