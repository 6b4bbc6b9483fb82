"""Train and test: command options, preflight checks, resuming, and hooks that guard a run.

Importing the package registers the hooks and the optimizer.
"""

from care_mm.engine import hooks as hooks
from care_mm.engine import optimizer as optimizer
