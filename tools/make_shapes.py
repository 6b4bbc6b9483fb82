"""Draw the embedded data set, which serves detection, segmentation and classification.

Example:
    python tools/make_shapes.py --out data/shapes --num-train 600 --num-val 120 --size 192
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from care_mm import cli
from care_mm.datasets.shapes.layouts import Settings, ensure_shapes


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to draw into")
    parser.add_argument(
        "--num-train",
        type=int,
        default=Settings.num_train,
        metavar="N",
        help="training images (default: %(default)s)",
    )
    parser.add_argument(
        "--num-val",
        type=int,
        default=Settings.num_val,
        metavar="N",
        help="validation images (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=Settings.size,
        metavar="S",
        help="longer side in pixels, at least 64 (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=Settings.seed,
        metavar="S",
        help="other seeds give other images (default: %(default)s)",
    )
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    root = ensure_shapes(args.out, args.num_train, args.num_val, args.size, args.seed)
    print(f"detection       {root / 'coco'}")
    print(f"segmentation    {root / 'ade' / 'ADEChallengeData2016'}")
    print(f"classification  {root / 'imagenet'}")


if __name__ == "__main__":
    main()
