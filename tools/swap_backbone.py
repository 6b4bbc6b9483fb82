r"""Write a config that has CARE or a peer as the backbone of a model of mmdet or mmseg.

Example:
    python tools/swap_backbone.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py \
        --arch s1 --out my_configs/retinanet_care_s1.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from care_mm import cli
from care_mm.swap import swap_file
from care_mm.swap.choices import CARE, SIZES, TIMM


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("config", help="config file, or mmdet::folder/name.py, mmseg::...")
    parser.add_argument(
        "--backbone",
        default=CARE,
        metavar="NAME",
        help=f"{', '.join(SIZES)}, or {TIMM}NAME for a model of timm (default: %(default)s)",
    )
    sizes = "; ".join(f"{name}: {', '.join(names)}" for name, names in SIZES.items())
    parser.add_argument("--arch", help=f"size of the backbone (default for care: s1). {sizes}")
    parser.add_argument("--out", required=True, metavar="FILE.py", help="config file to write")
    parser.add_argument(
        "--checkpoint",
        metavar="W",
        help="weights of the backbone (default: a file in checkpoints/ named by the backbone)",
    )
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    swap = swap_file(args.config, args.out, args.arch, args.checkpoint, args.backbone)
    print(f"{args.out}: {swap.choice.label} in place of {swap.old_backbone}")
    for label, maps in (("old", swap.old_maps), ("new", swap.new_maps)):
        print(f"  {label}  " + "  ".join(f"{m.channels} at stride {m.stride}" for m in maps))
    for path, remark in swap.remarks.items():
        print(f"  {'.'.join(map(str, path))}: {remark}")
    if "://" not in swap.checkpoint and not Path(swap.checkpoint).is_file():
        print(f"  {swap.checkpoint} does not exist yet; training needs it")


if __name__ == "__main__":
    main()
