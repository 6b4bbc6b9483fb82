"""Train whatever a config describes: detection, segmentation or classification.

Example:
    python tools/train.py configs/maskrcnn_care_s1_coco.py --work-dir work_dirs/maskrcnn_s1
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from care_mm import cli
from care_mm.engine import options
from care_mm.engine.hooks.randomness import use_deterministic
from care_mm.engine.run import train


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    cli.add_config_arguments(parser)
    cli.add_run_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from PATH, or from the newest whole checkpoint in the work dir",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision (needs a GPU)")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate to the batch size"
    )
    parser.add_argument(
        "--from-scratch", action="store_true", help="random weights in place of ImageNet's"
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="the same run bit by bit, on the CPU"
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="load_from may cover part of the model; the rest stays random and is listed",
    )
    cli.add_trust_argument(parser)
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    config = options.from_arguments(args)
    if args.from_scratch:
        options.use_from_scratch(config)
    if args.amp:
        options.use_amp(config)
    if args.auto_scale_lr:
        options.use_auto_scale_lr(config)
    if args.deterministic:
        use_deterministic(config)
    if args.allow_partial:
        options.use_allow_partial(config)
    with cli.trust_of(args):
        train(config, resume=args.resume)


if __name__ == "__main__":
    main()
