"""Checkpoints of a run: whole or not there; the old one goes after the new one is whole."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine.runner.runner as their_runner
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from care_mm.checkpoint.reading import read_checkpoint
from care_mm.checkpoint.writing import write_checkpoint, write_torch
from care_mm.engine.disk import check_room, checkpoint_size
from care_mm.files import PARTIAL, sha256_of, write_bytes

BACKEND = "care_mm_atomic"
LAST = "last_checkpoint"
# A checkpoint from the middle of an epoch; the next ordinary one replaces it.
INTERRUPTED = "interrupted_iter_{}.pth"


@register_backend(BACKEND, force=True)
class AtomicBackend(LocalBackend):
    """Local files, written whole or not at all; see :func:`care_mm.files.write_bytes`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Raises InputError on a full disk or a folder that takes no file."""
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(obj, filepath)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Raises InputError as :meth:`put`."""
        self.put(obj.encode(encoding), filepath)


@contextmanager
def _streamed() -> Iterator[None]:
    """Checkpoints for our backend are written while they are serialised.

    mmengine makes a file whole in memory before any backend sees it, which takes longer than
    syncing it does.
    """
    real = their_runner.save_checkpoint

    def save(checkpoint: dict, filename: str, *args: Any, **settings: Any) -> None:
        if (settings.get("backend_args") or {}).get("backend") != BACKEND:
            real(checkpoint, filename, *args, **settings)
            return
        Path(filename).parent.mkdir(parents=True, exist_ok=True)
        write_torch(checkpoint, filename)

    their_runner.save_checkpoint = save
    try:
        yield
    finally:
        their_runner.save_checkpoint = real


class _RemoveLater:
    """A file backend that notes what is to be removed, and does so when it is asked."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.doomed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str | Path) -> None:
        self.doomed.append(str(path))

    rmtree = remove

    def remove_now(self, spared: set[str]) -> None:
        """Remove what is noted, except what has been written again since."""
        for path in self.doomed:
            if path in spared:
                continue
            if self.backend.isfile(path):
                self.backend.remove(path)
            elif self.backend.isdir(path):  # of deepspeed
                self.backend.rmtree(path)
        self.doomed.clear()


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, with its arguments, that a kill or a full disk cannot hurt.

    A file is written under another name, synced and renamed; outdated and formerly best ones are
    removed after that, and ``last_checkpoint`` always names a whole one. Before the first
    iteration it makes sure that the disk has room for what the run will keep. Other file systems
    than local ones are written as ``CheckpointHook`` does.
    """

    def before_train(self, runner: Runner) -> None:
        """Raises InputError where the disk has no room."""
        place = str(self.out_dir or runner.work_dir)
        self.is_local = "://" not in place and self.file_client_args is None
        if self.is_local and self.backend_args is None:
            self.backend_args = dict(backend=BACKEND)
        super().before_train(runner)
        if self.is_local and self.max_keep_ckpts > 0 and runner._resume:
            self._adopt_leftovers(runner)
        self.file_backend = _RemoveLater(self.file_backend)
        self.saved_iter = runner.iter if runner._resume else -1
        if self.is_local and is_main_process():
            for leftover in Path(self.out_dir).glob(f".*{PARTIAL}"):  # of a kill
                leftover.unlink(missing_ok=True)
            check_room(Path(self.out_dir), checkpoint_size(runner), self._num_kept(runner))

    def _adopt_leftovers(self, runner: Runner) -> None:
        """Count what a kill between a new checkpoint and the removal of an old one left behind."""
        done = runner.epoch if self.by_epoch else runner.iter
        pattern = re.escape(self.filename_tmpl).replace(re.escape("{}"), r"(\d+)")
        names = [re.fullmatch(pattern, file.name) for file in Path(self.out_dir).glob("*.pth")]
        steps = sorted(int(name[1]) for name in names if name and int(name[1]) <= done)
        self.keep_ckpt_ids = deque(steps, self.max_keep_ckpts)
        if is_main_process():
            for step in steps[: -self.max_keep_ckpts]:
                Path(self.out_dir, self.filename_tmpl.format(step)).unlink(missing_ok=True)

    def save_now(self, runner: Runner) -> str:
        """Save after an iteration, be it in the middle of an epoch; returns the path."""
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
        with _streamed():
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
        if not is_main_process():
            self.file_backend.doomed.clear()
            return
        write_bytes(str(self.last_ckpt).encode(), Path(runner.work_dir, LAST))
        if self.is_local:
            for path in Path(self.out_dir).glob(INTERRUPTED.format("*")):
                self.file_backend.remove(path)
        self._remove_outdated()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with _streamed():
            super()._save_best_checkpoint(runner, metrics)
        if is_main_process():
            self._remove_outdated()

    def _remove_outdated(self) -> None:
        best = getattr(self, "best_ckpt_path_dict", {}).values()
        spared = {str(self.last_ckpt), str(getattr(self, "best_ckpt_path", None)), *map(str, best)}
        self.file_backend.remove_now(spared)

    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        """As CheckpointHook's, but written whole; the name ends in the file's own SHA-256."""
        if not self.is_local:
            super()._publish_model(runner, ckpt_path)
            return
        if not is_main_process():
            return
        content = read_checkpoint(ckpt_path)
        published = {key: content[key] for key in content if key in self.published_keys}
        path = Path(ckpt_path)
        draft = path.with_name(f".{path.stem}.draft.pth")
        write_checkpoint(published, draft)
        final = path.with_name(f"{path.stem}-{sha256_of(draft)[:8]}.pth")
        os.replace(draft, final)
        runner.logger.info(f"The checkpoint ({ckpt_path}) is published to {final}.")

    def _num_kept(self, runner: Runner) -> int:
        """Files of a checkpoint's size at the fullest moment, the one being written among them."""
        if self.interval <= 0:
            return 2
        length = runner.max_epochs if self.by_epoch else runner.max_iters
        planned = -(-length // self.interval)
        kept = min(planned, self.max_keep_ckpts) if self.max_keep_ckpts > 0 else planned
        return kept + len(self.save_best or ()) + 1
