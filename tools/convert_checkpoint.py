"""Convert the authors' ImageNet checkpoint to our names, or one of ours back to theirs.

DST is a new .pth or .safetensors file, or a folder, in which the file gets a name with its size and
a hash. Training a backbone needs no conversion: its init_cfg takes the authors' file as it is.

Example:
    python tools/convert_checkpoint.py care_s1.pth.tar checkpoints/care_s1_in1k.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from care_mm import cli
from care_mm.convert import convert_file
from care_mm.models.arch import ARCHS


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("source", metavar="SRC", help="file or URL of the checkpoint")
    parser.add_argument("target", metavar="DST", help="new file, or a folder that exists")
    parser.add_argument("--arch", choices=tuple(ARCHS), help="refuse weights of another size")
    parser.add_argument(
        "--ema", action="store_true", help="take the moving average that lies beside the weights"
    )
    parser.add_argument("--to-official", action="store_true", help="from our names to the authors'")
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    done = convert_file(args.source, args.target, args.arch, args.ema, args.to_official)
    print(
        f"CARE-{done.arch.upper()}: {done.num_keys} tensors, {done.num_parameters:,} parameters, "
        f"{done.num_classes} classes{done.others}"
    )
    print(f"SHA-256 {done.sha256}")
    print(f"written to {done.path}")


if __name__ == "__main__":
    main()
