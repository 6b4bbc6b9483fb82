r"""Show how a model sees one image: energy of each stage, linear attention, Grad-CAM.

Example:
    python tools/visualize.py configs/maskrcnn_care_s1_coco.py epoch_12.pth photo.jpg --out-dir seen
    python tools/visualize.py configs/care_s1_imagenet.py care_s1.pth cat.jpg --out-dir seen \
        --target 281
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from care_mm import cli
from care_mm.config import load_config
from care_mm.engine.resume import find_checkpoint
from care_mm.errors import InputError, refuse_existing
from care_mm.export.stand_in import is_exported
from care_mm.files import prepare_folder
from care_mm.predict.predictor import Predictor
from care_mm.visualize import SHEET, look, write_view


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    cli.add_config_arguments(parser)
    cli.add_checkpoint_arguments(parser)
    parser.add_argument("image", help="an image file")
    parser.add_argument("--out-dir", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--target",
        metavar="CLASS",
        help="class for Grad-CAM, by name or number; default: that of the highest score, in "
        "segmentation the largest",
    )
    parser.add_argument(
        "--point",
        nargs=2,
        type=int,
        metavar=("X", "Y"),
        help="pixel of the image whose attention is shown; default: the centre of the detection "
        "with the highest score, or of the image",
    )
    parser.add_argument("--no-cam", action="store_true", help="skip Grad-CAM")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="ignore detections below this score"
    )
    cli.add_device_argument(parser)
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    checkpoint = find_checkpoint(args.checkpoint)
    if is_exported(checkpoint):
        raise InputError(
            f"{checkpoint}: an exported file does not show its stages; give the checkpoint that it "
            "was exported from"
        )
    refuse_existing(Path(args.out_dir, SHEET), "--out-dir")
    prepare_folder(args.out_dir, "--out-dir", keep=False)
    config = load_config(args.config, args.cfg_options)
    with cli.trust_of(args):
        predictor = Predictor(config, checkpoint, args.device, args.allow_partial)
    view = look(
        predictor,
        Path(args.image),
        args.target,
        args.point and tuple(args.point),
        args.score_thr,
        not args.no_cam,
    )
    files = write_view(view, Path(args.out_dir))
    if view.target is None and not args.no_cam:
        print("nothing is detected: no Grad-CAM")
    if view.reduced:
        print("the prediction is drawn smaller than the image, which would take minutes")
    print(f"{len(files)} images; {files[-1]} shows all of them")


if __name__ == "__main__":
    main()
