"""What mmengine lacks: checked configs, preflight, processes on the CPU, inference, a summary, and
hooks that keep a run safe; importing any part registers those."""

from care_mm.engine import guards as guards
