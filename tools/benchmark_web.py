"""Measure pages of ``tools/export.py --format web`` in a browser, next to ONNX Runtime.

The browser is an installed Chromium or Chrome without a window, which runs the model in WebAssembly
with one thread. ONNX Runtime runs the same file on the same input, also with one thread, in turns
with the browser. The input is the example image of the page. Times are medians in ms.

Needs the package playwright.

Example:
    python tools/export.py configs/shapes/care_s0_shapes.py epoch_10.pth --format web --out site
    python tools/benchmark_web.py site
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from care_mm import cli
from care_mm.benchmark.browser import chromium, measure_page


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("folders", nargs="+", type=Path, help="folders of --format web")
    add("--rounds", type=cli.count, default=15, help="turns; default: %(default)s")
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    torch.set_num_threads(1)
    rows = [["page", "input", "backend", "page, ms", "model, ms", "native, ms", "model / native"]]
    with chromium() as browser:
        for folder in args.folders:
            times = measure_page(browser, folder, args.rounds)
            page, model, native = (np.array(ms) for ms in (times.page, times.browser, times.native))
            figures = [f"{np.median(ms):.1f}" for ms in (page, model, native)]
            size = " x ".join(map(str, times.size))
            ratio = f"{np.median(model / native):.2f}"
            rows.append([folder.name, size, times.label, *figures, ratio])
    print(cli.text_table(rows))


if __name__ == "__main__":
    main()
