r"""Write a config for your own data, with the settings that suit them, and try it.

Finds COCO, Pascal VOC, YOLO and LabelMe labels, folders of masks, and class folders. Labels that
have to be converted and splits go into DATA/care_mm/; nothing else in DATA changes.

Example:
    python tools/new_config.py my_data --task detection --out my.py
    python tools/train.py my.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from care_mm import cli
from care_mm.new_config import MODELS, new_config


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("data", help="folder with images and labels")
    parser.add_argument("--task", required=True, choices=tuple(MODELS))
    parser.add_argument("--out", metavar="FILE.py", help="config file to write")
    models = "; ".join(f"{task}: {', '.join(names)}" for task, names in MODELS.items())
    parser.add_argument("--model", help=f"default: the one that suits the data ({models})")
    parser.add_argument(
        "--arch", default="s0", choices=("s0", "s1", "s2"), help="size of CARE (default: s0)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the config; only converted labels and lists of images are written",
    )
    args = parser.parse_args(argv)
    if not args.out and not args.dry_run:
        parser.error("give --out FILE.py, or --dry-run")
    return args


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    out = args.out or "config.py"
    # The output of a dry run is the config alone.
    say = partial(print, file=sys.stderr if args.dry_run else sys.stdout)
    content = new_config(args.data, args.task, out, args.model, args.arch, args.dry_run, say)
    print(content if args.dry_run else f"{out} is ready: python tools/train.py {out}")


if __name__ == "__main__":
    main()
