r"""Train several backbones in one model for an equal number of steps, and print one table.

All backbones start from random weights and have the model, data, optimizer and learning rate of the
config. care_mm/swap/comparison.py has the rest of the recipe. Runs are trained one after the other,
each in its own process and folder. The command continues where it was interrupted: it skips
finished runs. A run that fails costs only its own figures.

Example:
    python tools/compare_backbones.py configs/camvid/semfpn_care_s0_camvid.py --steps 240 \
        --backbones care:s0 emo:2m mobilevig:ti timm:resnet18 --seeds 0 1
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from care_mm import cli, complexity
from care_mm.config import load_config
from care_mm.errors import InputError
from care_mm.files import prepare_folder
from care_mm.report.comparison import finished_run, rows
from care_mm.swap.comparison import Contestant, comparable

TRAIN = Path(__file__).with_name("train.py")
# Systems of the paper and of other mobile backbones, in the sizes next to CARE-S0 and S1.
BACKBONES = (
    "care:s0",
    "care:s1",
    "mobilenetv2",
    "emo:2m",
    "efficientformerv2:s1",
    "mobilevig:ti",
    "timm:resnet18",
    "timm:repvit_m0_9",
)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("config", help="config of a detector or segmentor with any backbone")
    parser.add_argument(
        "--backbones",
        nargs="+",
        default=[*BACKBONES],
        metavar="NAME",
        help="NAME, NAME:SIZE or timm:NAME, as for tools/swap_backbone.py; "
        f"default: {' '.join(BACKBONES)}",
    )
    parser.add_argument("--steps", type=int, default=240, help="training steps of each run")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N")
    parser.add_argument("--work-dir", type=Path, help="default: work_dirs/compare_<config>")
    parser.add_argument("--table-only", action="store_true", help="train nothing")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    cli.add_config_options(parser)
    return parser.parse_args(argv)


def train(config_file: Path, folder: Path) -> None:
    """Train in a process of its own; the error, if any, is already on the screen."""
    command = [sys.executable, str(TRAIN), str(config_file), "--work-dir", str(folder), "--resume"]
    status = subprocess.run(command).returncode
    if status in (130, -2):
        raise KeyboardInterrupt
    if status:
        print(f"{folder.name}: failed, the other runs go on", file=sys.stderr)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    if args.steps < 2:
        raise InputError(f"--steps {args.steps}: must be at least 2")
    config = load_config(args.config, args.cfg_options)
    work_dir = args.work_dir or Path("work_dirs") / f"compare_{Path(args.config).stem}"
    configs = {  # all of them first: a bad name ends the command before it trains anything
        (seed, name): comparable(config, Contestant.parse(name), args.steps, seed)
        for seed in args.seeds
        for name in args.backbones
    }
    prepare_folder(work_dir, "--work-dir")
    runs = {name: [] for name in args.backbones}
    for (seed, name), run_config in configs.items():
        folder = work_dir / f"{name.replace(':', '_')}_seed{seed}"
        if not (args.table_only or finished_run(folder, args.steps)):
            file = work_dir / f"{folder.name}.py"
            run_config.dump(file)
            train(file, folder)
        if run := finished_run(folder, args.steps):
            runs[name].append(run)
    parameters = {
        name: sum(p.numel() for p in complexity.build(configs[args.seeds[0], name]).parameters())
        for name in args.backbones
    }
    print(cli.text_table(rows(runs, parameters), args.markdown))


if __name__ == "__main__":
    main()
