"""Convert the authors' ImageNet checkpoint to our key names, or back with --to-official.

DST is a new .pth or .safetensors file, or a folder. In a folder, the file is named by the size of
the model and a hash. Training needs no conversion: init_cfg accepts the authors' file as it is.

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
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("source", metavar="SRC", help="file or URL of the checkpoint")
    parser.add_argument("target", metavar="DST", help="new file, or existing folder")
    parser.add_argument("--arch", choices=tuple(ARCHS), help="refuse weights of another size")
    parser.add_argument(
        "--ema", action="store_true", help="convert the EMA of the weights, if the file has one"
    )
    parser.add_argument(
        "--to-official", action="store_true", help="convert our names to the authors'"
    )
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
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
