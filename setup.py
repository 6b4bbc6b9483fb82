"""Put configs/, tools/ and model-index.yml into the wheel, in care_mm/.mim.

There mmengine and mim look for them in every MM package. An editable install needs no copy: see
care_mm/shipped.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Build the package, and add the files for ``.mim``."""

    def run(self) -> None:
        """Run the step."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "care_mm", ".mim")
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        for folder in ("configs", "tools"):
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(folder, target / folder, ignore=ignored)
        shutil.copy2("model-index.yml", target)


setup(cmdclass={"build_py": BuildWithConfigs})
