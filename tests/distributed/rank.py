"""Run several commands in one of two processes, to avoid repeated imports.

Example:
    RANK=0 WORLD_SIZE=2 ... python rank.py '[["tools/train.py", "29500", "config.py"], ...]'
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import scripts


def main() -> None:
    """Append the failure of each command, or an empty string, to ``rank{RANK}.jsonl``."""
    for script, port, *args in json.loads(sys.argv[1]):
        os.environ["MASTER_PORT"] = port
        print(script, *args, flush=True)
        try:
            scripts.call(Path(script), *args, "--launcher", "pytorch", cwd=Path.cwd())
            failure = ""
        except SystemExit as end:
            failure = str(end)
        with open(f"rank{os.environ['RANK']}.jsonl", "a") as file:
            file.write(json.dumps(failure) + "\n")


if __name__ == "__main__":
    main()
