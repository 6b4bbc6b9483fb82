"""Latency, throughput and memory of CARE and of its peers, side by side in one run.

Everything is measured in turns, each model in a process of its own, with the machine's own
ceilings (a matrix product and a copy) among them; ratios are taken turn by turn. Times are in ms
for a batch. "/ baseline" is over the authors' form (unfolded, NCHW, eager, fp32) of the same
model, "/ GEMM floor" over what its multiply-adds take at the rate of a large matrix product.

Example:
    python tools/benchmark.py --arch s0 s1 --backends baseline deploy onnxruntime openvino
    python tools/benchmark.py --peers repvit_m1_0 resnet50 --backends openvino --plot latency.png
    python tools/benchmark.py --what segmentor --models configs/semfpn_care_s1_ade20k.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from care_mm import cli
from care_mm.benchmark import tables
from care_mm.benchmark.backends import BACKENDS, DTYPES, Setting
from care_mm.benchmark.measure import ceilings, machine, measure
from care_mm.benchmark.models import TASKS
from care_mm.benchmark.worker import Job
from care_mm.cli import text_table
from care_mm.errors import InputError
from care_mm.files import write_bytes
from care_mm.models.arch import ARCHS


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--arch", nargs="*", choices=[*ARCHS], default=[*ARCHS], help="our sizes; default: all")
    add("--peers", nargs="+", default=[], metavar="NAME", help="models of timm's, or configs")
    add("--models", nargs="+", metavar="CONFIG", help="configs, instead of --arch")
    add("--what", choices=TASKS, default="classifier", help="default: classifier")
    add("--shape", nargs=2, type=int, default=[224, 224], metavar=("H", "W"), help="in pixels")
    add("--sizes", nargs="+", type=int, metavar="S", help="square inputs, and how cost grows")
    add("--batch", type=int, default=1, help="images in a batch; default: 1")
    add("--backends", nargs="+", choices=[*BACKENDS], default=["baseline", "deploy"])
    add("--threads", type=int, default=torch.get_num_threads(), help="CPU threads; default: cores")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dtype", choices=[*DTYPES], default="fp32", help="of all backends but baseline")
    add("--channels-last", action="store_true", help="layout of all torch backends but baseline")
    add("--train", action="store_true", help="forward and backward instead of inference")
    add("--rounds", type=int, default=15, help="turns of each; default: 15")
    add("--out", type=Path, metavar="FILE.json", help="write all figures")
    add("--plot", type=Path, metavar="FILE.png", help="draw latency against published top-1")
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here")
    for path in (args.out, args.plot):
        if path and path.exists():
            raise InputError(f"{path}: exists already: name another file, or remove it")
    setting = Setting(
        "eager", args.device, args.threads, args.dtype, args.channels_last, args.train
    )
    shapes = [(s, s) for s in args.sizes] if args.sizes else [tuple(args.shape)]
    names = args.models or [f"care_{arch}" for arch in args.arch]
    kinds = [(name, backend) for name in (*names, *args.peers) for backend in args.backends]
    jobs = [
        Job(name, args.what, shape, args.batch, replace(setting, backend=backend))
        for name, backend in kinds
        for shape in shapes
    ]
    gemm, copy, *results = measure([*ceilings(setting), *jobs], args.rounds)

    records = tables.summary(results, gemm, copy)
    host = machine(args.device) | {"threads": args.threads} | tables.ceiling(gemm, copy)
    print(text_table(tables.rows(records)), end="\n\n")
    print(", ".join(f"{k}: {v:.1f}" if k.endswith("_s") else f"{k}: {v}" for k, v in host.items()))
    if len(peers := tables.against(results)) > 1:
        print("", text_table(peers), sep="\n")
    for line in tables.growths(results):
        print(line)
    if args.out:
        report_json = json.dumps({"machine": host, "results": records}, indent=1)
        write_bytes(report_json.encode(), args.out, overwrite=False)
    if args.plot:
        title = f"{args.what}, {args.shape[0]}x{args.shape[1]}, batch {args.batch}\n{host['cpu']}"
        tables.plot(records, args.plot, title)
    if all(result.error for result in results):
        raise InputError(f"nothing ran: {results[0].job.subject}: {results[0].error}")


if __name__ == "__main__":
    main()
