"""Atomic checkpoints: an old one is deleted only after its successor is complete."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process, master_only
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner import runner as runner_module

from care_mm.checkpoint.reading import read_checkpoint
from care_mm.checkpoint.writing import write_checkpoint, write_torch
from care_mm.datasets.paths import is_url
from care_mm.engine.disk import check_room, checkpoint_size
from care_mm.files import PARTIAL, write_bytes

LAST = "last_checkpoint"
# A checkpoint from the middle of an epoch; the next regular one replaces it.
INTERRUPTED = "interrupted_iter_{}.pth"


@contextmanager
def _streaming() -> Iterator[None]:
    """Make ``Runner.save_checkpoint`` write local files atomically while it serialises them.

    mmengine serialises a checkpoint into memory before any file backend sees it. That takes longer
    than flushing the file to disk.
    """
    # Patch, see docs/reliability.md; tested on mmengine 0.10.7 and onedl-mmengine 0.10.12.
    original = runner_module.save_checkpoint

    def save(checkpoint: dict, filename: str, *_: Any, **__: Any) -> None:
        Path(filename).parent.mkdir(parents=True, exist_ok=True)
        write_torch(checkpoint, filename)

    runner_module.save_checkpoint = save
    try:
        yield
    finally:
        runner_module.save_checkpoint = original


class _DeferredRemoval:
    """A file backend that defers deletions until :meth:`remove_now`."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.pending: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str | Path) -> None:
        self.pending.append(str(path))

    rmtree = remove

    def remove_now(self, kept: set[str]) -> None:
        """Delete the pending files, except those in ``kept``, which were written again since."""
        for path in self.pending:
            if path in kept:
                continue
            if self.backend.isfile(path):
                self.backend.remove(path)
            elif self.backend.isdir(path):  # a checkpoint of deepspeed
                self.backend.rmtree(path)
        self.pending.clear()


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, with its arguments, made safe against kills and full disks.

    A file is written under a temporary name, flushed to disk and renamed. Outdated and formerly
    best files are deleted after that, and ``last_checkpoint`` always names a complete file. Before
    the first iteration, the hook checks that the disk has room for the files that the run will
    keep. On remote file systems, it does what ``CheckpointHook`` does.

    Attributes:
        saved_iter: Number of iterations that the newest checkpoint covers; -1 if there is none.
    """

    def before_train(self, runner: Runner) -> None:
        """Clean up after a killed process and check the disk.

        Raises:
            InputError: The disk has no room for the checkpoints.
        """
        self.is_local = (
            not is_url(str(self.out_dir or runner.work_dir))
            and self.file_client_args is None
            and (self.backend_args or {}).get("backend", "local") == "local"
        )
        super().before_train(runner)
        self.unknown: set[str] = set()  # metrics of save_best that no validation has
        if self.is_local and self.max_keep_ckpts > 0 and runner._resume:
            self._adopt_leftovers(runner)
        # CheckpointHook deletes through this attribute; mmengine 0.10.7 and onedl-mmengine 0.10.12.
        self.file_backend = _DeferredRemoval(self.file_backend)
        self.saved_iter = runner.iter if runner._resume else -1
        if self.is_local and is_main_process():
            for leftover in Path(self.out_dir).glob(f".*{PARTIAL}"):
                leftover.unlink(missing_ok=True)
            check_room(Path(self.out_dir), checkpoint_size(runner), self._max_files(runner))

    def _adopt_leftovers(self, runner: Runner) -> None:
        """Count the checkpoints that a kill between a save and the next deletion left behind."""
        done = runner.epoch if self.by_epoch else runner.iter
        pattern = re.escape(self.filename_tmpl).replace(re.escape("{}"), r"(\d+)")
        names = [re.fullmatch(pattern, file.name) for file in Path(self.out_dir).glob("*.pth")]
        steps = sorted(int(name[1]) for name in names if name and int(name[1]) <= done)
        self.keep_ckpt_ids = deque(steps, self.max_keep_ckpts)
        if is_main_process():
            for step in steps[: -self.max_keep_ckpts]:
                Path(self.out_dir, self.filename_tmpl.format(step)).unlink(missing_ok=True)

    def save_now(self, runner: Runner) -> str:
        """Save after an iteration, even in the middle of an epoch, and return the path."""
        if self.by_epoch:
            number = runner.iter + 1
            meta = dict(epoch=runner.epoch, iter=number)
            self._save(runner, INTERRUPTED.format(number), meta)
        else:
            self._save_checkpoint(runner)
        return str(self.last_ckpt)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                oldest = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
                self.file_backend.remove(self.file_backend.join_path(self.out_dir, oldest))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        self._save(runner, self.filename_tmpl.format(step), meta)

    def _save(self, runner: Runner, name: str, meta: dict) -> None:
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        self.saved_iter = meta["iter"]
        with self._writing():
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
        if is_main_process():
            write_bytes(str(self.last_ckpt).encode(), Path(runner.work_dir, LAST))
            if self.is_local:
                for path in Path(self.out_dir).glob(INTERRUPTED.format("*")):
                    self.file_backend.remove(path)
        self._remove_outdated()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._writing():
            super()._save_best_checkpoint(runner, self._with_indicators(runner, metrics))
        self._remove_outdated()

    def _with_indicators(self, runner: Runner, metrics: dict) -> dict:
        """Return metrics with ``None`` for those of ``save_best`` that a validation lacks."""
        names = getattr(self, "key_indicators", None) or ()
        unknown = [name for name in names if name != "auto" and name not in metrics]
        for name in unknown:
            if name not in self.unknown:
                self.unknown.add(name)
                runner.logger.warning(
                    f"save_best={name!r}: the validation has no such metric, so no best checkpoint "
                    f"is kept by it; the metrics are {', '.join(metrics)}"
                )
        return {**metrics, **dict.fromkeys(unknown)}

    def _writing(self) -> AbstractContextManager:
        return _streaming() if self.is_local else nullcontext()

    def _remove_outdated(self) -> None:
        if not is_main_process():
            self.file_backend.pending.clear()
            return
        best = getattr(self, "best_ckpt_path_dict", {}).values()
        current = (self.last_ckpt, getattr(self, "best_ckpt_path", None), *best)
        self.file_backend.remove_now({str(path) for path in current})

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        """Publish a checkpoint atomically under a name that ends in the SHA-256 of the file."""
        if not self.is_local:
            super()._publish_model(runner, ckpt_path)
            return
        content = read_checkpoint(ckpt_path)
        published = {key: content[key] for key in content if key in self.published_keys}
        path = Path(ckpt_path)
        draft = path.with_name(f".{path.stem}.draft.pth")
        digest = write_checkpoint(published, draft)
        final = path.with_name(f"{path.stem}-{digest[:8]}.pth")
        os.replace(draft, final)
        runner.logger.info(f"The checkpoint ({ckpt_path}) is published to {final}.")

    def _max_files(self, runner: Runner) -> int:
        """Return the largest number of checkpoints at one time, including the one being written."""
        if self.interval <= 0:
            return 2
        length = runner.max_epochs if self.by_epoch else runner.max_iters
        planned = -(-length // self.interval)
        kept = min(planned, self.max_keep_ckpts) if self.max_keep_ckpts > 0 else planned
        return kept + len(self.save_best or ()) + 1
