"""Predict on images and videos: draw the predictions and list them in predictions.json.

Example:
    python tools/infer.py configs/maskrcnn_care_s1_coco.py epoch_12.pth photos/ --out-dir results
    python tools/infer.py configs/maskrcnn_care_s1_coco.py epoch_12.pth walk.mp4 --out-dir results
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from care_mm import cli
from care_mm.config import load_config
from care_mm.errors import InputError
from care_mm.predict.files import Output, find_files, predict_files
from care_mm.predict.predictor import Predictor


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    cli.add_config_arguments(parser)
    cli.add_checkpoint_arguments(parser)
    parser.add_argument(
        "inputs", nargs="+", metavar="IMAGE|VIDEO|FOLDER", help="files to predict on"
    )
    parser.add_argument("--out-dir", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="do not draw detections below this score"
    )
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="predict on every N-th frame of a video (default: %(default)s)",
    )
    parser.add_argument(
        "--frames", action="store_true", help="write a video's frames as images, not as a video"
    )
    cli.add_device_argument(parser)
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    if args.every < 1:
        raise InputError(f"--every {args.every}: must be 1 or more")
    output = Output(Path(args.out_dir), args.score_thr, args.every, args.frames)
    files = find_files(args.inputs)
    output.refuse_existing(files)
    config = load_config(args.config, args.cfg_options)
    with cli.trust_of(args):
        predictor = Predictor(config, args.checkpoint, args.device, args.allow_partial)
    count, problems = predict_files(predictor, files, output)
    print(f"{count} images and frames predicted: {args.out_dir}")
    if problems:
        raise InputError("; ".join(problems))


if __name__ == "__main__":
    main()
