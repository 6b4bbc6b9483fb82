"""Keep two runs out of one work dir."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log

from care_mm.errors import InputError

LOCK = ".run.lock"


@contextmanager
def locked(work_dir: str | Path) -> Iterator[None]:
    """Hold the work dir for this run; the system releases it when the process ends, however.

    Of several processes of a run, the first one holds it.

    Raises:
        InputError: Another run holds the work dir.
    """
    if os.environ.get("RANK", "0") != "0" or os.environ.get("SLURM_PROCID", "0") != "0":
        yield
        return
    with Path(work_dir, LOCK).open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # workers do not inherit it
        except (BlockingIOError, PermissionError):
            raise InputError(
                f"--work-dir {work_dir}: another run is training there: wait for it, or choose "
                "another --work-dir"
            ) from None
        except OSError as error:  # some network file systems have no locks
            print_log(f"{work_dir} cannot be locked ({error.strerror})", logger="current")
        yield
