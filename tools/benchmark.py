r"""Measure latency, throughput and memory of CARE and other models in one run.

A model is one of our sizes, a timm model, any mmdet, mmseg or mmpretrain config, or an exported
file. Configs are measured as whole models, with random weights: a detector up to its final boxes
and masks, a segmentor up to logits at the size of the input. The runtimes run the files that
tools/export.py writes.

Each model runs in its own process. The processes take turns, together with the limits of the
machine (a matrix product and a copy), and ratios are taken round by round. Times are in ms for a
batch. "/ baseline" is the time over that of the authors' form (unfolded, NCHW, eager, fp32) of the
same model. "/ GEMM floor" is the time over that of the model's multiply-adds at the rate of a large
matrix product.

``--table paper`` measures CARE and the systems that the paper compares it with, writes a page and a
figure, and continues after an interruption with the rows that ``--out`` lacks.

Example:
    python tools/benchmark.py --table detectors --out detectors.json
    python tools/benchmark.py --table paper --models care_s0 care_s1 emo:2m --threads 1
    python tools/benchmark.py --models configs/rtmdet_care_s0_coco.py --shape 640 640 \
        --peers mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py --backends onnxruntime openvino
    python tools/benchmark.py --models exported.onnx
    python tools/benchmark.py --arch s0 s1 --peers repvit_m1_0 --plot latency.png
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from care_mm import cli
from care_mm.benchmark import paper, paper_page, tables
from care_mm.benchmark.backends import BACKENDS, DTYPES, Setting, backend_of
from care_mm.benchmark.comparisons import COMPARISONS
from care_mm.benchmark.measure import limits, machine, measure
from care_mm.benchmark.models import is_config, label, shape_of
from care_mm.benchmark.worker import Job
from care_mm.config import load_config
from care_mm.errors import InputError, refuse_existing
from care_mm.export.graphs import WHAT
from care_mm.export.stand_in import is_exported, open_program
from care_mm.files import check_new_figure, prepare_folder, save_figure, write_bytes
from care_mm.models.arch import ARCHS

PAPER = "paper"  # the table that has its own page
# Options that this table has no use for.
FIXED = ("arch", "peers", "what", "shape", "sizes", "num_classes", "batch", "device", "dtype")
FIXED += ("channels_last", "train", "plot")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add(
        "--table",
        choices=[*COMPARISONS, PAPER],
        help="a comparison with all its models and settings",
    )
    add("--arch", nargs="*", choices=[*ARCHS], default=[*ARCHS], help="our sizes; default: all")
    add("--models", nargs="+", metavar="MODEL", help="configs or exported files instead of --arch")
    add("--peers", nargs="+", default=[], metavar="NAME", help="timm models, configs or files")
    add("--what", choices=WHAT, default="model", help="default: %(default)s")
    add(
        "--shape",
        nargs=2,
        type=cli.count,
        metavar=("H", "W"),
        help="input in pixels; default: that of the first model's task or file",
    )
    add("--sizes", nargs="+", type=cli.count, metavar="S", help="square inputs; prints the growth")
    add("--num-classes", type=cli.count, metavar="N", help="classes of the heads of all configs")
    add("--batch", type=cli.count, default=1, help="images in a batch; default: 1")
    add("--backends", nargs="+", choices=BACKENDS, help="default: baseline deploy")
    add("--threads", nargs="+", type=cli.count, metavar="T", help="CPU threads; default: cores")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dtype", choices=[*DTYPES], default="fp32", help="for all backends but baseline")
    add("--channels-last", action="store_true", help="for all torch backends but baseline")
    add("--train", action="store_true", help="forward and backward instead of inference")
    add("--rounds", type=cli.count, help="turns of each model; default: 15, for --table paper 3")
    add(
        "--files",
        type=Path,
        metavar="FOLDER",
        help="keep the exported files here, and measure those that are there already",
    )
    add("--markdown", action="store_true", help="print Markdown tables")
    add("--out", type=Path, metavar="FILE.json", help="write all figures")
    add("--plot", type=Path, metavar="FILE.png", help="draw latency, against published top-1")
    add(
        "--page",
        type=Path,
        metavar="FILE.md",
        help=f"for --table paper; default: {paper_page.PAGE}",
    )
    return parser.parse_args(argv)


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def complete(args: argparse.Namespace) -> None:
    """Replace omitted options by those of ``--table``, or by the defaults."""
    if args.table:
        table = COMPARISONS[args.table]
        args.models = args.models or [*table.models]
        args.peers = args.peers or [*table.peers]
        args.shape = args.shape or table.shape
        args.num_classes = args.num_classes or table.classes
        args.backends = args.backends or table.backends
        args.threads = args.threads or [t for t in table.threads if t <= num_cores()]
    args.models = args.models or [f"care_{arch}" for arch in args.arch]
    args.backends = args.backends or ("baseline", "deploy")
    args.threads = args.threads or [torch.get_num_threads()]


def check(args: argparse.Namespace) -> None:
    """Raise InputError for everything that can be checked before a model is built."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU")
    if max(args.threads) > num_cores():
        raise InputError(f"--threads {max(args.threads)}: there are {num_cores()} cores")
    if args.files and not args.files.is_dir():
        raise InputError(f"--files {args.files}: there is no such folder")
    names = [*args.models, *args.peers]
    labels = [label(name) for name in names]
    for name in names:
        if labels.count(label(name)) > 1:
            raise InputError(f"{name}: two models are called {label(name)}")
        if is_exported(name):
            backend_of(name)
        elif is_config(name):
            load_config(name)
    if args.out:
        refuse_existing(args.out, "--out")
        prepare_folder(args.out.parent, "--out")
    if args.plot:
        check_new_figure(args.plot, "--plot")


def measure_paper(args: argparse.Namespace) -> None:
    """Measure ``--table paper`` row by row, and write its page after each row.

    Raises:
        InputError: An option does not apply, or a model is unknown.
    """
    default = parse_args([])
    if wrong := [name for name in FIXED if getattr(args, name) != getattr(default, name)]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        raise InputError(f"--table {PAPER}: its conditions are fixed, so it has no {options}")
    names = args.models or [*paper.MODELS]
    backends = args.backends or paper.installed_runtimes()
    threads = args.threads or [1]
    paper.check(names)
    check(argparse.Namespace(**{**vars(args), "models": names, "out": None, "threads": threads}))
    settings = paper.settings_of(backends, threads)
    out = args.out or Path("work_dirs") / "paper_table.json"
    page, rounds = args.page or paper_page.PAGE, args.rounds or 3
    prepare_folder(out.parent, "--out")
    prepare_folder(page.parent, "--page")
    command = ["python", "tools/benchmark.py", "--table", PAPER]
    for option in ("models", "backends", "threads", "rounds"):
        if (value := getattr(args, option)) is not None:
            command += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    host = machine("cpu")
    for rows in paper.measure_rows(names, settings, rounds, args.files, out, host):
        paper_page.write(rows, settings, host, " ".join(command), page)
    for title, table in paper_page.tables(rows, settings).items():
        print(f"{title}\n{cli.text_table(table, args.markdown)}\n")
    print(f"written: {page}, {out}")


def shapes_of(args: argparse.Namespace) -> list[tuple[int, int]]:
    """Return the input sizes to measure, as (H, W)."""
    if args.sizes:
        return [(side, side) for side in args.sizes]
    if args.shape:
        return [tuple(args.shape)]
    first = args.models[0] if args.models else args.peers[0]
    return [(open_program(first).shape if is_exported(first) else shape_of(first)) or (224, 224)]


def jobs_of(args: argparse.Namespace) -> Iterator[Job]:
    """Yield the jobs; an exported file runs in the backend of its suffix alone."""
    shapes = shapes_of(args)
    for name in (*args.models, *args.peers):
        backends = [backend_of(name)] if is_exported(name) else args.backends
        for backend, threads, shape in itertools.product(backends, args.threads, shapes):
            setting = Setting(
                backend, args.device, threads, args.dtype, args.channels_last, args.train
            )
            yield Job(name, args.what, shape, args.batch, setting, args.num_classes)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    if args.table == PAPER:
        return measure_paper(args)
    complete(args)
    check(args)
    jobs = list(jobs_of(args))
    settings = [replace(jobs[0].setting, threads=threads) for threads in args.threads]
    limiting = [job for setting in settings for job in limits(setting)]
    measured = measure([*limiting, *jobs], args.rounds or 15, args.files)
    results = measured[len(limiting) :]
    gemms, copies = measured[: len(limiting) : 2], measured[1 : len(limiting) : 2]

    records = tables.summary(results, gemms)
    host = machine(args.device) | {"limits": tables.limits(gemms, copies)}
    ratios = tables.ratios(results, args.peers)
    print(cli.text_table(tables.rows(records), args.markdown), end="\n\n")
    print(tables.about(host))
    if ratios:
        print("", cli.text_table(tables.against(ratios), args.markdown), sep="\n")
    for line in tables.growths(results):
        print(line)
    if args.out:
        report = {"machine": host, "results": records, "ratios": ratios}
        write_bytes(json.dumps(report, indent=1).encode(), args.out, overwrite=False)
    if args.plot and not all(result.error for result in results):
        shape = "x".join(map(str, jobs[0].shape))
        title = f"{args.table or args.what}, {shape}, batch {args.batch}\n{host['cpu']}"
        save_figure(tables.plot(records, title, args.peers), args.plot, overwrite=False)
    if all(result.error for result in results):
        raise InputError(f"nothing ran: {results[0].job.model}: {results[0].error}")


if __name__ == "__main__":
    main()
