"""Draw the embedded data set for detection, segmentation and classification.

Example:
    python tools/make_shapes.py --out data/shapes --num-train 600 --num-val 120 --size 192
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from care_mm import cli
from care_mm.datasets.shapes import Settings, ensure_shapes

NUMBERS = (
    ("num_train", "N", "training images"),
    ("num_val", "N", "validation images"),
    ("size", "S", "longer side in pixels, at least 64"),
    ("seed", "S", "seed of the random numbers"),
)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to draw into")
    for name, metavar, text in NUMBERS:
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=int,
            default=getattr(Settings, name),
            metavar=metavar,
            help=f"{text} (default: %(default)s)",
        )
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Draw the data set, and print the folder for each task."""
    args = parse_args(argv)
    root = ensure_shapes(args.out, args.num_train, args.num_val, args.size, args.seed)
    print(f"detection       {root / 'coco'}")
    print(f"segmentation    {root / 'ade' / 'ADEChallengeData2016'}")
    print(f"classification  {root / 'imagenet'}")


if __name__ == "__main__":
    main()
