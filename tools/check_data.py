"""Say whether the data that a config needs are in place, readable, and agree with its model.

Every file is looked for, every annotation checked, and a sample of the pictures decoded. Problems
give status 2; notes are worth knowing and give 0.

Example:
    python tools/check_data.py configs/maskrcnn_care_s1_coco.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from care_mm import cli
from care_mm.config import load_config
from care_mm.datasets.check.config import DEFAULT_LIMIT, SPLITS, check_config
from care_mm.errors import InputError


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    cli.add_config_arguments(parser)
    parser.add_argument(
        "--split", nargs="+", choices=SPLITS, help="default: all that the config has"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--limit",
        type=int,
        default=DEFAULT_LIMIT,
        metavar="N",
        help="pictures to open in each data set, evenly spaced (default: %(default)s)",
    )
    which.add_argument("--all", action="store_true", help="open every picture")
    parser.add_argument(
        "--show",
        type=int,
        default=1,
        metavar="N",
        help="offenders to name of each kind (default: %(default)s)",
    )
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.limit < 0:
        raise InputError(f"--limit {args.limit}: give a number from 0")
    config = load_config(args.config, args.cfg_options)
    count, places = 0, []
    for findings in check_config(config, args.split, None if args.all else args.limit):
        for line in findings.lines(args.show):
            print(line, flush=True)
        count += len(findings.problems)
        if findings.problems and findings.place not in places:
            places.append(findings.place)
    if count:
        problems = "1 problem" if count == 1 else f"{count} problems"
        raise InputError(f"{problems} in {', '.join(places)}")


if __name__ == "__main__":
    main()
