"""Videos whose frames tell their index."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

FRAMES, FPS = 9, 5.0


def write_video(file: Path, code: str = "mp4v", noise: int = 0, fps: float = FPS) -> Path:
    """Write frames that each have their own grey, with noise that makes them hard to compress."""
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*code), fps, (96, 64))
    for i in range(FRAMES):
        writer.write(20 * i + 30 + rng.integers(0, noise + 1, (64, 96, 3), np.uint8))
    writer.release()
    return file
