"""Detect JPEG and PNG files that are cut short, which OpenCV decodes without complaint."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from PIL import Image

from care_mm.errors import InputError, one_line

# First bytes of a format -> a mark among the last bytes of a complete file.
ENDINGS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG\r\n\x1a\n": b"IEND"}


def refuse_truncated(path: str | Path) -> None:
    """Refuse a JPEG or PNG file that is cut short.

    Only a file without its end mark is decoded, by Pillow; other files cost a read of a few bytes.

    Raises:
        InputError: The file is cut short.
    """
    with open(path, "rb") as file:
        start = file.read(8)
        ending = next((end for mark, end in ENDINGS.items() if start.startswith(mark)), None)
        if ending is None:
            return
        file.seek(max(0, os.fstat(file.fileno()).st_size - 32))
        if ending in file.read():
            return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
    except (Image.DecompressionBombError, ValueError):
        return  # limits of Pillow, which OpenCV does not have
    except Exception as error:
        raise InputError(f"cut short or damaged: {one_line(error)}") from error
