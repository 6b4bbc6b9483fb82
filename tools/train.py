"""Train the model that a config describes: detection, segmentation or classification.

Example:
    python tools/train.py configs/maskrcnn_care_s1_coco.py --work-dir work_dirs/maskrcnn_s1
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from care_mm import cli
from care_mm.engine import options
from care_mm.engine.run import train


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    cli.add_config_arguments(parser)
    cli.add_run_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="resume from PATH, or from the newest intact checkpoint in the work dir",
    )
    parser.add_argument("--amp", action="store_true", help="train in mixed precision (needs a GPU)")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate with the number of images in a step",
    )
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="start from random weights instead of ImageNet weights",
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="make reruns bit-identical (CPU only)"
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="accept a load_from that covers part of the model, and list what stays random",
    )
    cli.add_trust_argument(parser)
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    config = options.from_arguments(args)
    if args.from_scratch:
        options.use_from_scratch(config)
    if args.amp:
        options.use_amp(config)
    if args.auto_scale_lr:
        options.use_auto_scale_lr(config)
    if args.deterministic:
        options.use_deterministic(config)
    if args.allow_partial:
        options.use_allow_partial(config)
    with cli.trust_of(args):
        train(config, resume=args.resume)


if __name__ == "__main__":
    main()
