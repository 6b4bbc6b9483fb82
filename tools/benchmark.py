"""Measure latency, throughput and memory of CARE and its peers in one run.

Each model runs in its own process. The processes take turns, together with the limits of the
machine (a matrix product and a copy), and ratios are taken round by round. Times are in ms for a
batch. "/ baseline" is the time over that of the authors' form (unfolded, NCHW, eager, fp32) of the
same model. "/ GEMM floor" is the time over that of the model's multiply-adds at the rate of a large
matrix product.

Example:
    python tools/benchmark.py --arch s0 s1 --backends baseline deploy onnxruntime openvino
    python tools/benchmark.py --peers repvit_m1_0 resnet50 --backends openvino --plot latency.png
    python tools/benchmark.py --what segmentor --models configs/semfpn_care_s1_ade20k.py
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from care_mm import cli
from care_mm.benchmark import tables
from care_mm.benchmark.backends import BACKENDS, DTYPES, Setting
from care_mm.benchmark.measure import limits, machine, measure
from care_mm.benchmark.models import TASKS
from care_mm.benchmark.worker import Job
from care_mm.errors import InputError, refuse_existing
from care_mm.files import write_bytes
from care_mm.models.arch import ARCHS


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--arch", nargs="*", choices=[*ARCHS], default=[*ARCHS], help="our sizes; default: all")
    add("--peers", nargs="+", default=[], metavar="NAME", help="timm models, or configs")
    add("--models", nargs="+", metavar="CONFIG", help="configs instead of --arch")
    add("--what", choices=TASKS, default="classifier", help="default: classifier")
    add("--shape", nargs=2, type=int, default=[224, 224], metavar=("H", "W"), help="in pixels")
    add("--sizes", nargs="+", type=int, metavar="S", help="square inputs; prints the growth")
    add("--batch", type=int, default=1, help="images in a batch; default: 1")
    add("--backends", nargs="+", choices=[*BACKENDS], default=["baseline", "deploy"])
    add("--threads", type=int, default=torch.get_num_threads(), help="CPU threads; default: cores")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dtype", choices=[*DTYPES], default="fp32", help="for all backends but baseline")
    add("--channels-last", action="store_true", help="for all torch backends but baseline")
    add("--train", action="store_true", help="forward and backward instead of inference")
    add("--rounds", type=int, default=15, help="turns of each model; default: 15")
    add("--out", type=Path, metavar="FILE.json", help="write all figures")
    add("--plot", type=Path, metavar="FILE.png", help="draw latency against published top-1")
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU")
    for path in filter(None, (args.out, args.plot)):
        refuse_existing(path)
    setting = Setting(
        "eager", args.device, args.threads, args.dtype, args.channels_last, args.train
    )
    shapes = [(s, s) for s in args.sizes] if args.sizes else [tuple(args.shape)]
    names = args.models or [f"care_{arch}" for arch in args.arch]
    jobs = [
        Job(name, args.what, shape, args.batch, replace(setting, backend=backend))
        for name, backend in itertools.product((*names, *args.peers), args.backends)
        for shape in shapes
    ]
    gemm, copy, *results = measure([*limits(setting), *jobs], args.rounds)

    records = tables.summary(results, gemm)
    host = machine(args.device) | {"threads": args.threads} | tables.limits(gemm, copy)
    print(cli.text_table(tables.rows(records)), end="\n\n")
    print(", ".join(f"{k}: {v:.1f}" if k.endswith("_s") else f"{k}: {v}" for k, v in host.items()))
    if len(peers := tables.against(results)) > 1:
        print("", cli.text_table(peers), sep="\n")
    for line in tables.growths(results):
        print(line)
    if args.out:
        report_json = json.dumps({"machine": host, "results": records}, indent=1)
        write_bytes(report_json.encode(), args.out, overwrite=False)
    if args.plot:
        title = f"{args.what}, {args.shape[0]}x{args.shape[1]}, batch {args.batch}\n{host['cpu']}"
        tables.plot(records, title).savefig(args.plot)
    if all(result.error for result in results):
        raise InputError(f"nothing ran: {results[0].job.model}: {results[0].error}")


if __name__ == "__main__":
    main()
