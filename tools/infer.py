"""Predict on images: a picture for each and all results in predictions.json.

Example:
    python tools/infer.py configs/maskrcnn_care_s1_coco.py epoch_12.pth photos/ --out-dir results
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from care_mm import cli
from care_mm.engine.config import load_config
from care_mm.engine.inference import Predictor, find_images, predict_files
from care_mm.errors import InputError


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    cli.add_config_arguments(parser)
    cli.add_checkpoint_arguments(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER", help="what to predict on")
    parser.add_argument("--out-dir", required=True, metavar="DIR", help="where results go")
    parser.add_argument("--score-thr", type=float, default=0.3, help="draw detections above it")
    cli.add_device_argument(parser)
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    images = find_images(args.images)
    config = load_config(args.config, args.cfg_options)
    with cli.trust_of(args):
        predictor = Predictor(config, args.checkpoint, args.device, args.allow_partial)
    unreadable = predict_files(predictor, images, Path(args.out_dir), args.score_thr)
    print(f"{len(images) - len(unreadable)} of {len(images)} images predicted: {args.out_dir}")
    if unreadable:
        raise InputError("; ".join(unreadable))


if __name__ == "__main__":
    main()
