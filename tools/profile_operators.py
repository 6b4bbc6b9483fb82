"""Measure the time of a model by kind of operator, in eager torch or in a runtime.

The times come from the runtime's profiler, in ms for a batch; shares are of their sum.

Example:
    python tools/profile_operators.py care_s0 --backend openvino
    python tools/profile_operators.py repvit_m1_0 --backend onnxruntime --shape 512 512
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from care_mm import cli
from care_mm.benchmark.backends import Setting
from care_mm.benchmark.models import TASKS, build
from care_mm.benchmark.operators import PROFILERS, profile


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("model", help="care_s0, care_s1, care_s2, a timm model, or a config")
    add("--backend", choices=[*PROFILERS], default="deploy")
    add("--what", choices=TASKS, default="classifier", help="default: classifier")
    add("--shape", nargs=2, type=int, default=[224, 224], metavar=("H", "W"), help="in pixels")
    add("--batch", type=int, default=1, help="images in a batch; default: 1")
    add("--threads", type=int, default=torch.get_num_threads(), help="CPU threads; default: cores")
    add("--runs", type=int, default=10, help="runs to average; default: 10")
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    example = torch.rand(args.batch, 3, *args.shape)
    setting = Setting(args.backend, threads=args.threads)
    kinds = profile(build(args.model, args.what), example, setting, args.runs)
    total = sum(operators.ms for operators in kinds)
    rows = [["operator", "number", "ms", "share"]]
    for operators in kinds:
        share = f"{operators.ms / total:.1%}"
        rows.append([operators.kind, str(operators.number), f"{operators.ms:.3f}", share])
    number = sum(operators.number for operators in kinds)
    rows.append(["sum", str(number), f"{total:.3f}", "100.0%"])
    print(cli.text_table(rows))


if __name__ == "__main__":
    main()
