"""The time of a page of ``--format web`` in Chromium, next to ONNX Runtime with the same file."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from care_mm.errors import InputError
from care_mm.export.onnx import OnnxProgram
from care_mm.export.web.folder import MODEL

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Without the GPU, so that the backend is WebAssembly everywhere.
FLAGS = ("--no-sandbox", "--disable-gpu")
TIMEOUT = 120_000  # ms, for busy machines
WARM_UP = 2  # runs


class Handler(http.server.SimpleHTTPRequestHandler):
    """A static server without messages."""

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@contextmanager
def served(folder: Path, handler: type[Handler] = Handler) -> Iterator[str]:
    """Serve a folder to this machine, and yield its address."""
    handle = functools.partial(handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handle) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """Yield Playwright's browser without a window.

    Args:
        flags: Command-line flags next to ``FLAGS``.

    Raises:
        InputError: Playwright or the browser is not installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise InputError("playwright is not installed: pip install playwright") from error
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise InputError(f"no browser: install one of {', '.join(BROWSERS)}")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=path, args=[*FLAGS, *flags], timeout=TIMEOUT
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class PageTimes:
    """Times of one image in ms, of all runs.

    Attributes:
        size: Height and width of the model's input.
        label: The browser's backend and threads, as the page names them.
        page: From the image to the predictions, in the browser.
        browser: The model in the browser.
        native: The model in ONNX Runtime, with one thread.
    """

    size: tuple[int, int]
    label: str
    page: tuple[float, ...]
    browser: tuple[float, ...]
    native: tuple[float, ...]


def measure_page(browser: Any, folder: Path, rounds: int) -> PageTimes:
    """Measure a page with its example image; the browser and ONNX Runtime take turns.

    Torch's number of threads is that of ONNX Runtime.

    Raises:
        InputError: The folder is not one of ``--format web``, or the page shows an error.
    """
    if not (folder / MODEL).is_file():
        raise InputError(f"{folder}: not a folder of --format web (it has no {MODEL})")
    program = OnnxProgram(folder / MODEL)
    runs = []
    with served(folder) as address:
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT)
        page.goto(address)
        page.wait_for_selector("#example:enabled, #message:visible")
        _refuse_message(page, folder)
        for _ in range(WARM_UP + rounds):
            page.evaluate("careMM.last = null")
            page.click("#example")
            page.wait_for_function("careMM.last || !document.getElementById('message').hidden")
            _refuse_message(page, folder)
            ms = page.evaluate("careMM.last.ms")
            if not runs:
                image = _input(page)
                label = page.evaluate("careMM.model.label")
            begin = time.perf_counter()
            program.run(image)
            runs.append((ms["total"], ms["model"], 1e3 * (time.perf_counter() - begin)))
        page.close()
    size = (image.shape[2], image.shape[3])
    return PageTimes(size, label, *map(tuple, zip(*runs[WARM_UP:], strict=True)))


def _refuse_message(page: Any, folder: Path) -> None:
    message = page.inner_text("#message")
    if message:
        raise InputError(f"{folder}: the page says: {message}")


def _input(page: Any) -> np.ndarray:
    """Return the model's last input, (1, 3, H, W)."""
    data, height, width = page.evaluate(
        "(({ data, height, width }) => [Array.from(data), height, width])(careMM.last.input)"
    )
    return np.array(data, np.float32).reshape(1, 3, height, width)
