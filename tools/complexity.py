"""Count parameters and multiply-adds: the parts of one model, or one row for each of several.

GMACs are 1e9 multiply-adds for one image, by the rules of fvcore's counter: convolutions, linear
layers, attention products, two for every element that a norm reads and four for every bilinear
sample. "products alone" leaves out norms and samples. A Mask R-CNN gets the maximum number of
proposals of its test_cfg.

Example:
    python tools/complexity.py configs/care_s1_imagenet.py --sizes 224 384 512 1024
    python tools/complexity.py configs/maskrcnn_care_s*_coco.py --shape 800 1280
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from care_mm import cli, complexity, tasks
from care_mm.config import load_config


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config file")
    parser.add_argument(
        "--shape",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="input in pixels; default: the size that the config pads test images to, or 224 224, "
        "512 512 for mmseg, 800 1280 for mmdet",
    )
    parser.add_argument(
        "--sizes", nargs="+", type=int, metavar="S", help="also print the cost at square sizes"
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    cli.add_config_options(parser)
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    rows = [complexity.MODEL_HEADING]
    for path in args.configs:
        config = load_config(path, args.cfg_options)
        model = complexity.build(config)
        shape = tuple(args.shape or tasks.default_shape(config))
        counted = complexity.count(model, shape)
        rows.append(complexity.model_row(path, counted))
        if len(args.configs) == 1:
            print(f"{path} at {shape[0]}x{shape[1]} (HxW) {counted.assumed}".rstrip(), end="\n\n")
            print(cli.text_table(complexity.part_rows(counted), args.markdown), end="\n\n")
        if args.sizes:
            counts = [complexity.count(model, (size, size)) for size in args.sizes]
            print(f"{path} by input size", end="\n\n")
            print(cli.text_table(complexity.growth_rows(counts), args.markdown), end="\n\n")
    if len(args.configs) > 1:
        print(cli.text_table(rows, args.markdown))


if __name__ == "__main__":
    main()
