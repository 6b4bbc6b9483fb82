"""Evaluate a checkpoint on the test set of its config.

Example:
    python tools/test.py configs/maskrcnn_care_s1_coco.py work_dirs/maskrcnn_s1/epoch_12.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmengine.config import DictAction

from care_mm.cli import command
from care_mm.engine import config as options
from care_mm.engine.run import test


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="what training wrote")
    parser.add_argument("--work-dir", help="logs; default: work_dirs/<config>")
    parser.add_argument("--out", metavar="FILE.pkl", help="keep the predictions in a pickle")
    parser.add_argument("--show-dir", metavar="DIR", help="write a picture for every image")
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
    if args.show_dir:
        options.use_show_dir(config, args.show_dir)
    if args.out:
        options.use_out_file(config, args.out)
    test(config, args.checkpoint)


if __name__ == "__main__":
    main()
