"""Check that the data of a config are complete, readable, and agree with its model.

The command looks for every file, checks every annotation, and decodes a sample of the images. The
status is 2 if there are problems; notes leave it at 0.

Example:
    python tools/check_data.py configs/maskrcnn_care_s1_coco.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from care_mm import cli
from care_mm.config import load_config
from care_mm.datasets.check import DEFAULT_LIMIT, SPLITS, check_config
from care_mm.datasets.check.findings import count_problems
from care_mm.errors import InputError


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    cli.add_config_arguments(parser)
    parser.add_argument(
        "--split", nargs="+", choices=SPLITS, help="default: all splits of the config"
    )
    number = parser.add_mutually_exclusive_group()
    number.add_argument(
        "--limit",
        type=int,
        default=DEFAULT_LIMIT,
        metavar="N",
        help="images to decode in each data set, evenly spaced (default: %(default)s)",
    )
    number.add_argument("--all", action="store_true", help="decode every image")
    parser.add_argument(
        "--show",
        type=int,
        default=1,
        metavar="N",
        help="offenders of each kind to name (default: %(default)s)",
    )
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Print the findings on each data set and on the model."""
    args = parse_args(argv)
    if args.limit < 0:
        raise InputError(f"--limit {args.limit}: give 0 or a positive number")
    config = load_config(args.config, args.cfg_options)
    count, places = 0, []
    for findings in check_config(config, args.split, None if args.all else args.limit):
        for line in findings.lines(args.show):
            print(line, flush=True)
        count += len(findings.problems)
        if findings.problems and findings.place not in places:
            places.append(findings.place)
    if count:
        raise InputError(f"{count_problems(count)} in {', '.join(places)}")


if __name__ == "__main__":
    main()
