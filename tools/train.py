"""Train whatever a config describes: detection, segmentation or classification.

Example:
    python tools/train.py configs/maskrcnn_care_s1_coco.py --work-dir work_dirs/maskrcnn_s1
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmengine.config import DictAction

from care_mm.cli import command
from care_mm.engine import config as options
from care_mm.engine.run import train


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="logs and checkpoints; default: work_dirs/<config>")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from PATH, or from the newest checkpoint in the work dir",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision (needs a GPU)")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate to the batch size"
    )
    parser.add_argument(
        "--from-scratch", action="store_true", help="random weights in place of ImageNet's"
    )
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, metavar="K=V", help="override the config"
    )
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    config = options.load_config(args.config, args.cfg_options)
    config.launcher = args.launcher
    config.work_dir = args.work_dir or config.get("work_dir") or options.default_work_dir(config)
    if args.from_scratch:
        options.use_from_scratch(config)
    if args.amp:
        options.use_amp(config)
    if args.auto_scale_lr:
        options.use_auto_scale_lr(config)
    train(config, resume=args.resume)


if __name__ == "__main__":
    main()
