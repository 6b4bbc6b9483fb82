"""Write a config that has CARE in place of the backbone of an mmdet or mmseg config.

Example:
    python tools/swap_backbone.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py \\
        --arch s1 --out my_configs/retinanet_care_s1.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from care_mm import cli
from care_mm.swap import swap_file


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("config", help="config file, or mmdet::folder/name.py, mmseg::...")
    parser.add_argument(
        "--arch", default="s1", help="size of CARE: s0, s1 or s2 (default: %(default)s)"
    )
    parser.add_argument("--out", required=True, metavar="FILE.py", help="the config to write")
    parser.add_argument(
        "--checkpoint",
        metavar="W",
        help="weights of the backbone (default: checkpoints/care_{arch}_in1k.pth)",
    )
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    swap = swap_file(args.config, args.out, args.arch, args.checkpoint)
    print(f"{args.out}: CARE-{args.arch.upper()} in place of {swap.old_backbone}")
    for name, maps in (("was", swap.old_maps), ("is", swap.new_maps)):
        print(f"  {name:4}" + "  ".join(f"{m.channels} at stride {m.stride}" for m in maps))
    for remark in swap.remarks.values():
        print(f"  {remark}")
    if "://" not in swap.checkpoint and not Path(swap.checkpoint).is_file():
        print(f"  {swap.checkpoint} is not there yet: training starts from it")


if __name__ == "__main__":
    main()
