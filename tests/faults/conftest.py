"""Faults are injected into jobs of their own; see ``tiny_job.py``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER = str(Path(__file__).parent)
sys.path.insert(0, FOLDER)
# For the server that forks the jobs, which knows nothing of pytest.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [FOLDER, str(Path(FOLDER).parent), os.environ.get("PYTHONPATH")])
)
