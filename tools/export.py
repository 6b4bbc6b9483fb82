r"""Export a model for another runtime: fold it, write the file, and compare it with the model.

The input is a batch of images, (B, 3, H, W) float32, normalised as in training; the file holds mean
and std. Outputs: the logits of a classifier; the logits of a segmentor at the size of the input;
boxes, scores, labels, valid and masks of a detector, in fixed numbers, or for a runtime without
non-maximum suppression its raw maps. tools/test.py and tools/infer.py accept the file in place of a
checkpoint. See docs/export.md for details, and docs/decoding.md for raw maps.

The format web is a folder with the ONNX file and a page that runs it in a browser: docs/web.md.

Example:
    python tools/export.py configs/maskrcnn_care_s1_coco.py epoch_12.pth \
        --format onnx --out maskrcnn.onnx
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from care_mm import cli
from care_mm.config import load_config
from care_mm.errors import InputError
from care_mm.export.graphs import WHAT
from care_mm.export.pipeline import ExportSettings, VerificationError, export
from care_mm.export.runtimes import TARGETS
from care_mm.export.web.folder import FORMAT, MODEL, Drawing, new_folder, write_page
from care_mm.export.web.preparation import preparation_of
from care_mm.export.web.runtime_files import runtime_files
from care_mm.predict.calibration import calibration
from care_mm.predict.predictor import Predictor, test_pipeline
from care_mm.tasks import default_shape

PRECISIONS = dict.fromkeys(name for target in TARGETS.values() for name in target.precisions)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    cli.add_config_arguments(parser)
    cli.add_checkpoint_arguments(parser)
    parser.add_argument(
        "--format", choices=(*TARGETS, FORMAT), required=True, help="runtime to write for"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="new file; for web a new folder"
    )
    parser.add_argument(
        "--shape",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="the only input size in pixels; default: any size if the runtime supports it",
    )
    parser.add_argument("--what", choices=WHAT, default="model", help="default: %(default)s")
    parser.add_argument(
        "--argmax",
        action="store_true",
        help="write the class of each pixel of a segmentor, not logits",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="default: %(default)s"
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="FOLDER", help="typical images, needed for int8"
    )
    parser.add_argument(
        "--opset",
        type=int,
        metavar="N",
        help="opset of an ONNX file, 17 to 20, for old runtimes; default: 20, the fastest",
    )
    parser.add_argument(
        "--runtime-files",
        type=Path,
        metavar="DIR",
        help="for web: the unpacked npm package onnxruntime-web; default: npm downloads it",
    )
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    if args.runtime_files and args.format != FORMAT:
        raise InputError(f"--runtime-files is for --format {FORMAT}")
    config = load_config(args.config, args.cfg_options)
    try:
        if args.format == FORMAT:
            lines = write_folder(args, config)
        else:
            _, lines = write_file(args, config, args.format, args.out)
    except VerificationError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")
    for line in lines:
        print(line)
    print(f"written to {args.out}")


def write_folder(args: argparse.Namespace, config: Config) -> list[str]:
    """Write the folder of ``--format web``, and return the lines that describe it."""
    if args.what != "model":
        raise InputError(f"--what {args.what}: the page of --format {FORMAT} shows predictions")
    preparation = preparation_of(test_pipeline(config))
    with new_folder(args.out) as folder:
        runtime = runtime_files(args.runtime_files)
        predictor, lines = write_file(args, config, "onnx", folder / MODEL)
        drawing = Drawing(predictor.dataset_meta, getattr(predictor.visualizer, "alpha", 0.8))
        return lines + write_page(folder, predictor.model, preparation, drawing, runtime)


def write_file(
    args: argparse.Namespace, config: Config, name: str, out: Path
) -> tuple[Predictor, list[str]]:
    """Write a file of the format ``name``.

    Returns:
        The predictor, and the lines that describe the file.
    """
    shape = tuple(args.shape) if args.shape else None
    if shape is None and TARGETS[name].fixed_shape:
        shape = default_shape(config)
    settings = ExportSettings(
        format=name,
        out=out,
        shape=shape,
        what=args.what,
        labels=args.argmax,
        precision=args.precision,
        calibration=args.calibration,
        opset=args.opset,
    )
    settings.check()
    with cli.trust_of(args):
        predictor = Predictor(config, args.checkpoint, "cpu", args.allow_partial)
    samples = calibration(predictor, args.calibration, shape) if args.calibration else []
    return predictor, export(predictor.model, settings, predictor.dataset_meta, samples)


if __name__ == "__main__":
    main()
