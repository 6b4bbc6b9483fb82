"""Measure the time of a model by kind of operator, in eager torch or in a runtime.

The times come from the runtime's profiler, in ms for a batch; shares are of their sum. ncnn has
none in Python: its layers run one by one. LiteRT has none either: its operators are left out kind
by kind, and the differences are their times. With one thread, both are CPU times, which other
processes do not prolong. Configs are measured as whole models, with random weights.

Example:
    python tools/profile_operators.py care_s0 --backend openvino
    python tools/profile_operators.py repvit_m1_0 --backend onnxruntime --shape 512 512
    python tools/profile_operators.py configs/rtmdet_care_s0_coco.py --backend openvino
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from care_mm import cli
from care_mm.benchmark.backends import Setting, backend_of
from care_mm.benchmark.models import build, shape_of
from care_mm.benchmark.operators import PROFILERS, grouped, profile, profile_file
from care_mm.export.graphs import WHAT
from care_mm.export.stand_in import is_exported, open_program


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("model", help="care_s0, care_s1, care_s2, a timm model, a config, or an exported file")
    add("--backend", choices=PROFILERS, default="deploy", help="that of an exported file is known")
    add("--what", choices=WHAT, default="model", help="default: %(default)s")
    add(
        "--shape",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="input in pixels; default: that of the model's task or file",
    )
    add("--num-classes", type=cli.count, metavar="N", help="classes of the heads of a config")
    add("--batch", type=cli.count, default=1, help="images in a batch; default: 1")
    add(
        "--threads",
        type=cli.count,
        default=torch.get_num_threads(),
        help="CPU threads; default: cores",
    )
    add("--runs", type=cli.count, default=10, help="runs to average; default: 10")
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    exported = is_exported(args.model)
    usual = open_program(args.model).shape if exported else shape_of(args.model)
    shape = tuple(args.shape or usual or (224, 224))
    example = torch.rand(args.batch, 3, *shape)
    if exported:
        setting = Setting(backend_of(args.model), threads=args.threads)
        kinds = profile_file(Path(args.model), example, setting, args.runs)
    else:
        setting = Setting(args.backend, threads=args.threads)
        model = build(args.model, args.what, shape, args.num_classes)
        kinds = profile(model, example, setting, args.runs)
    total = sum(operators.ms for operators in kinds)
    rows = [["operator", "number", "ms", "share"]]
    for operators in kinds:
        share = f"{operators.ms / total:.1%}"
        rows.append([operators.kind, str(operators.number), f"{operators.ms:.3f}", share])
    number = sum(operators.number for operators in kinds)
    rows.append(["sum", str(number), f"{total:.3f}", "100.0%"])
    print(cli.text_table(rows), end="\n\n")
    groups = [group for group in grouped(kinds) if group.number]
    rows = [["group", "number", "ms", "share"]]
    for group in groups:
        rows.append([group.kind, str(group.number), f"{group.ms:.3f}", f"{group.ms / total:.1%}"])
    print(cli.text_table(rows))
    convolutions = sum(group.ms for group in groups if group.kind == "convolutions")
    if convolutions > 0:
        print(f"overhead over the convolutions: {total / convolutions - 1:.1%}")


if __name__ == "__main__":
    main()
