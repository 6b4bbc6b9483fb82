"""Evaluate a checkpoint on the test set of its config.

Example:
    python tools/test.py configs/maskrcnn_care_s1_coco.py work_dirs/maskrcnn_s1/epoch_12.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from care_mm import cli
from care_mm.engine import options
from care_mm.engine.run import test


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    cli.add_config_arguments(parser)
    cli.add_checkpoint_arguments(parser)
    cli.add_run_arguments(parser)
    parser.add_argument("--out", metavar="FILE.pkl", help="write the predictions to a pickle")
    parser.add_argument(
        "--show-dir", metavar="DIR", help="draw predictions and ground truth on every image"
    )
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    config = options.from_arguments(args)
    if args.show_dir:
        options.use_show_dir(config, args.show_dir)
    if args.out:
        options.use_out_file(config, args.out)
    with cli.trust_of(args):
        test(config, args.checkpoint, allow_partial=args.allow_partial)


if __name__ == "__main__":
    main()
