"""Write an HTML report on a run, as training does at its end: curves, settings, worst images.

Example:
    python tools/report.py work_dirs/maskrcnn_care_s1_coco
    python tools/report.py work_dirs/maskrcnn_care_s1_coco --no-images --out curves.html
    python tools/report.py work_dirs/seed0 work_dirs/seed1 --plot curves.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from care_mm import cli
from care_mm.files import check_new_figure, prepare_folder, save_figure
from care_mm.report import (
    REPORT,
    Judgement,
    judge_checkpoint,
    read_run,
    refuse_other_file,
    write_report,
)
from care_mm.report.comparison import charts
from care_mm.report.curves import draw_charts


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument(
        "work_dir", nargs="+", help="folder of a run, complete or in progress; several with --plot"
    )
    parser.add_argument("--out", metavar="FILE.html", help=f"default: WORK_DIR/{REPORT}")
    parser.add_argument(
        "--plot", metavar="FILE.png", help="draw loss and metrics of all runs, and write no report"
    )
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
    args = parser.parse_args(argv)
    if len(args.work_dir) > 1 and not args.plot:
        parser.error("a report is on one run: give --plot FILE.png to compare several")
    return args


def plot(folders: Sequence[str], file: Path) -> None:
    """Draw the curves of runs in one figure."""
    check_new_figure(file, "--plot")
    figure = draw_charts(charts([read_run(folder) for folder in folders]))
    save_figure(figure, file, overwrite=False)
    print(file)


@cli.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_args(argv)
    if args.plot:
        return plot(args.work_dir, Path(args.plot))
    run = read_run(args.work_dir[0])
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
