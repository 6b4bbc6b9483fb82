"""Write an HTML report on a run, as training does at its end: curves, settings, worst images.

Example:
    python tools/report.py work_dirs/maskrcnn_care_s1_coco
    python tools/report.py work_dirs/maskrcnn_care_s1_coco --no-images --out curves.html
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from care_mm import cli
from care_mm.files import prepare_folder
from care_mm.report import (
    REPORT,
    Judgement,
    judge_checkpoint,
    read_run,
    refuse_other_file,
    write_report,
)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("work_dir", help="folder of a run, complete or in progress")
    parser.add_argument("--out", metavar="FILE.html", help=f"default: WORK_DIR/{REPORT}")
    parser.add_argument(
        "--checkpoint", help="weights to predict with; default: the best, or else the newest"
    )
    parser.add_argument(
        "--rate", type=int, default=200, metavar="N", help="number of validation images to rate"
    )
    parser.add_argument(
        "--worst", type=int, default=8, metavar="N", help="number of images to show"
    )
    parser.add_argument(
        "--score-thr", type=float, default=0.5, help="ignore detections below this score"
    )
    parser.add_argument("--no-images", action="store_true", help="curves and settings only")
    cli.add_device_argument(parser)
    cli.add_trust_argument(parser)
    return parser.parse_args(argv)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    run = read_run(args.work_dir)
    file = Path(args.out or run.work_dir / REPORT)
    refuse_other_file(file)
    prepare_folder(file.parent, "--out")
    judgement = Judgement()
    if not args.no_images:
        with cli.trust_of(args):
            judgement = judge_checkpoint(
                run,
                args.checkpoint,
                args.device,
                num_rated=args.rate,
                num_worst=args.worst,
                score_thr=args.score_thr,
            )
    write_report(run, judgement, file)
    if judgement.problems:
        print(f"{len(judgement.problems)} images failed, the first is: {judgement.problems[0]}")
    print(file)


if __name__ == "__main__":
    main()
