"""Write a model for another runtime, folded, and compare it with the model.

The input is a picture normalised as in training, (B, 3, H, W) float32; the file holds mean and std.
Outputs: logits of a classifier; logits of a segmentor at the size of the input; boxes, scores,
labels, valid and masks of a detector, in fixed numbers. tools/test.py and tools/infer.py take the
file in place of a checkpoint. docs/export.md has the rest.

Example:
    python tools/export.py configs/maskrcnn_care_s1_coco.py epoch_12.pth \\
        --format onnx --out maskrcnn.onnx
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from care_mm import cli
from care_mm.config import load_config
from care_mm.export.graphs import WHAT
from care_mm.export.pipeline import FORMATS, NotEqual, Wish, export, target_of
from care_mm.predict.calibration import calibration
from care_mm.predict.predictor import Predictor
from care_mm.tasks import default_shape


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    cli.add_config_arguments(parser)
    cli.add_checkpoint_arguments(parser)
    parser.add_argument("--format", choices=FORMATS, required=True, help="runtime to write for")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="new file")
    parser.add_argument(
        "--shape",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="the only input size in pixels; default: any size where the runtime can",
    )
    parser.add_argument("--what", choices=WHAT, default="model", help="default: %(default)s")
    parser.add_argument(
        "--argmax", action="store_true", help="of a segmentor, the best class instead of logits"
    )
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "bf16", "int8"), default="fp32", help="of the file"
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="FOLDER", help="images like those to come, for int8"
    )
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    config = load_config(args.config, args.cfg_options)
    shape = tuple(args.shape) if args.shape else None
    if shape is None and target_of(args.format).FIXED:
        shape = default_shape(config)
    wish = Wish(
        target=args.format,
        out=args.out,
        shape=shape,
        what=args.what,
        labels=args.argmax,
        precision=args.precision,
        calibration=args.calibration,
    )
    try:
        with cli.trust_of(args):
            wish.check()
            predictor = Predictor(config, args.checkpoint, "cpu", args.allow_partial)
            samples = calibration(predictor, wish.calibration, shape) if wish.calibration else []
            lines = export(predictor.model, wish, predictor.dataset_meta, samples)
    except NotEqual as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")
    for line in lines:
        print(line)
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
