"""What mmengine lacks: checked configs, preflight, processes on the CPU, inference, a summary, an
optimizer, and hooks that keep a run safe; importing any part registers the last two."""

from care_mm.engine import guards as guards
from care_mm.engine import optimizer as optimizer
