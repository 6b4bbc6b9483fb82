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
from care_mm.engine.resume import find_checkpoint
from care_mm.errors import InputError
from care_mm.files import prepare_folder
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
    prepare_folder(output.folder, "--out-dir", keep=False)
    config = load_config(args.config, args.cfg_options)
    with cli.trust_of(args):
        checkpoint = find_checkpoint(args.checkpoint)
        predictor = Predictor(config, checkpoint, args.device, args.allow_partial)
    results = predict_files(predictor, files, output)
    for line in results.lines():
        print(line)
    print(f"results: {args.out_dir}")
    results.refuse_problems(output.folder)


if __name__ == "__main__":
    main()
