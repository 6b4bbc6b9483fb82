"""What mmengine lacks: checked configs, preflight, CPU processes, inference, a picture at the end."""
