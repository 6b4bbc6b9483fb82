"""What mmengine lacks: checked configs, preflight, processes on the CPU, inference, a summary."""
