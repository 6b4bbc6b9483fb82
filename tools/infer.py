"""Predict on images: a picture for each and all results in predictions.json.

Example:
    python tools/infer.py configs/maskrcnn_care_s1_coco.py epoch_12.pth photos/ --out-dir results
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction

from care_mm.cli import InputError, command
from care_mm.engine import config as options
from care_mm.engine.inference import Predictor, find_images, predict_files


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="what training wrote")
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER", help="what to predict on")
    parser.add_argument("--out-dir", required=True, metavar="DIR", help="where results go")
    parser.add_argument("--score-thr", type=float, default=0.3, help="draw detections above it")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: the GPU if there is one")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, metavar="K=V", help="override the config"
    )
    parser.add_argument(
        "--allow-partial", action="store_true", help="load what fits, and list what stays random"
    )
    options.add_trust_argument(parser)
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    images = find_images(args.images)
    config = options.load_config(args.config, args.cfg_options)
    with options.trust_of(args):
        predictor = Predictor(config, args.checkpoint, args.device, args.allow_partial)
    unreadable = predict_files(predictor, images, Path(args.out_dir), args.score_thr)
    print(f"{len(images) - len(unreadable)} of {len(images)} images predicted: {args.out_dir}")
    if unreadable:
        raise InputError("; ".join(unreadable))


if __name__ == "__main__":
    main()
