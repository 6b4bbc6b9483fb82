"""The page and the figure of the table that compares CARE with the paper's systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from care_mm.benchmark.backends import Setting
from care_mm.benchmark.paper import CLASSIFIER, PYRAMID, Row, setting_key
from care_mm.cli import text_table
from care_mm.files import save_figure, write_bytes
from care_mm.peers.systems import split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = Path("docs/paper_table.md")
TITLES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
    "executorch": "ExecuTorch",
}
SYSTEMS = {
    "mlla": "MLLA",
    "flatten-pvt": "FLatten-PVT",
    "flatten-swin": "FLatten-Swin",
    "slab-pvt": "SLAB-PVT",
    "slab-swin": "SLAB-Swin",
    "emo": "EMO",
    "mobilevig": "MobileViG",
    "mobilenetv2": "MobileNetV2",
    "efficientformer": "EfficientFormer",
    "efficientformerv2": "EfficientFormerV2",
    "swin": "Swin",
    "convnext": "ConvNeXt",
}
COUNTS = """\
- Parameters and GMACs are counted on the ImageNet classifiers with all heads and 1000 classes at
  224 x 224. GMACs are 1e9 multiply-adds of convolutions, linear layers and matrix products.
- Top-1 on ImageNet-1K is published, not measured.
"""
TIMES = """\
- A latency is the shortest of all runs, in ms.
- The number in brackets is the latency of the classifier over that of CARE-S1. Both run in turns,
  and the ratio is the median over the turns, so it may differ a little from that of the column.
- The pyramid consists of the maps of strides 4 to 32.
- Peak memory is that of the process while it computes the pyramid, in the runtime that needs least.
  Every process has the same libraries, which are part of it."""
# Start of a model's name -> where its published and measured figures disagree.
FOOTNOTES = {
    "care_": "Second-hand summaries of the paper give CARE 3.5, 6.2 and 12.7 M parameters, and S1 "
    "a top-1 of 80.6. The parameters here are the released models' with both heads, and the "
    "top-1 is from the authors' release page.",
    "emo:": "EMO's authors count 439 M multiply-adds for 2M. The count here is 432 M, because it "
    "has convolutions, linear layers and matrix products alone.",
    "mobilevig:": "MobileViG's count includes both heads, of which training needs the second one. "
    "Its authors give 5.2, 7.2 and 14.0 M parameters for Ti, S and M. The names of the released "
    "files give M a top-1 of 80.7, and the paper gives 80.6.",
    "efficientformer": "EfficientFormer and EfficientFormerV2 also count both heads. The top-1 of "
    "V2-S1 is that of 300 epochs; after 450 epochs it is 79.7.",
    "mobilenetv2:": "71.8 is what later papers quote. MobileNetV2's own paper states 72.0.",
    "flatten-pvt:": "FLatten-PVT's count includes a norm that its forward pass does not use.",
}


def tables(rows: Sequence[Row], settings: Sequence[Setting]) -> dict[str, list[list[str]]]:
    """Return the tables by title, headings first; a cell is empty if nothing was measured."""
    titles = [_title(setting, settings) for setting in settings]
    marks = {start: f"<sup>{i}</sup>" for i, start in enumerate(_used_footnotes(rows), 1)}
    counts = [["model", "parameters, M", "GMACs", "top-1, published", "peak memory, MiB"]]
    classifiers, pyramids = [["model", *titles]], [["model", *titles]]
    for row in rows:
        title = title_of(row["model"])
        mark = next((marks[start] for start in marks if row["model"].startswith(start)), "")
        figures = [row["figures"].get(setting_key(setting), {}) for setting in settings]
        parameters, macs = row.get("parameters"), row.get("macs")
        peaks = [part["peak_mib"] for part in figures if "peak_mib" in part]
        counts.append(
            [
                f"{title}{mark}",
                "" if parameters is None else f"{parameters / 1e6:.2f}",
                "" if macs is None else f"{macs / 1e9:.2f}",
                "" if row["top1"] is None else f"{row['top1']:.1f}",
                f"{min(peaks):.0f}" if peaks else "",
            ]
        )
        classifiers.append([title, *map(_classifier, figures)])
        pyramids.append(
            [title, *(f"{p['pyramid_ms']:.1f}" if "pyramid_ms" in p else "" for p in figures)]
        )
    return {
        "Size and accuracy": counts,
        "Classifier, {} x {}".format(*CLASSIFIER): classifiers,
        "Feature pyramid, {} x {}".format(*PYRAMID): pyramids,
    }


def _classifier(figures: Mapping[str, float]) -> str:
    if "ms" not in figures:
        return ""
    ratio = f" ({figures['ratio']:.2f})" if "ratio" in figures else ""
    return f"{figures['ms']:.1f}{ratio}"


def title_of(name: str) -> str:
    """Return the name of a model in the table, such as ``CARE-S1`` or ``EMO-2M``."""
    if name.startswith("care_"):
        return name.upper().replace("_", "-")
    system, size = split(name)
    return f"{SYSTEMS[system]}-{'Ti' if size == 'ti' else size.upper()}"


def _title(setting: Setting, settings: Sequence[Setting]) -> str:
    name = TITLES.get(setting.backend, setting.backend)
    several = len({other.threads for other in settings}) > 1
    return f"{name}, threads {setting.threads}" if several else name


def _used_footnotes(rows: Sequence[Row]) -> list[str]:
    """Return the keys of ``FOOTNOTES`` that rows need, in the order of the rows."""
    used = [start for row in rows for start in FOOTNOTES if row["model"].startswith(start)]
    return list(dict.fromkeys(used))


def text(
    rows: Sequence[Row],
    settings: Sequence[Setting],
    host: Mapping[str, object],
    command: str,
    figure: str | None,
) -> str:
    """Return the page.

    Args:
        rows: See :func:`care_mm.benchmark.paper.measure_row`.
        settings: The runtimes and numbers of threads.
        host: See :func:`care_mm.benchmark.measure.machine`.
        command: The command that measured the rows.
        figure: The place of the figure, relative to the page; ``None`` if there is none.
    """
    threads = " or ".join(str(t) for t in sorted({setting.threads for setting in settings}))
    notes = [f"{i}. {FOOTNOTES[start]}" for i, start in enumerate(_used_footnotes(rows), 1)]
    failures = _failures(rows)
    counts, *latencies = [
        f"## {title}\n\n{text_table(table, markdown=True)}"
        for title, table in tables(rows, settings).items()
    ]
    parts = [
        "# CARE and the systems that the paper compares it with",
        "This command writes the page and its figure. `--models` selects rows, `--backends` and "
        "`--threads` select columns, and `--files` keeps the exported files:",
        f"```bash\n{command}\n```",
        f"Machine: {host['cpu']}, threads: {threads}. Software: torch {host['torch']}, Python "
        f"{host['python']}. Date: {host['date']}. Batch 1, fp32, random weights. Each model is "
        "folded by its own method and runs as an exported file.",
        COUNTS + (TIMES if figure else "- No latency has been measured yet."),
        counts,
        "\n".join(notes),
        *(latencies if figure else ()),
        "Not measured:\n\n" + "\n".join(failures) if failures else "",
        f"![Published accuracy against measured latency]({figure})" if figure else "",
        "The figure shows each classifier in its fastest runtime. The line joins the models that "
        "no other model beats in both."
        if figure
        else "",
        "timm has MobileNetV2, EfficientFormer, EfficientFormerV2, Swin and ConvNeXt. "
        "`care_mm.peers` has the others and [swap.md](swap.md#other-backbones) puts each into a "
        "config. The larger sizes are left out of the run: "
        "`--models mlla:s mlla:b flatten-swin:s slab-swin:s mobilevig:b`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _failures(rows: Sequence[Row]) -> list[str]:
    """Return a line for each reason why something was not measured, with its models."""
    models: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        parts: dict[str, list[str]] = {}
        for part, error in row["errors"].items():
            parts.setdefault(error, []).append(part)
        for error, names in parts.items():
            models.setdefault(("; ".join(names), error), []).append(title_of(row["model"]))
    return [f"- {', '.join(names)} ({part}): {error}" for (part, error), names in models.items()]


def draw(rows: Sequence[Row], settings: Sequence[Setting], host: Mapping[str, object]) -> Figure:
    """Draw published top-1 against the latency of each classifier in its fastest setting."""
    from care_mm.benchmark import tables

    records = [
        {
            "model": title_of(row["model"]),
            "backend": setting.backend,
            "published_top1": row["top1"],
            "median_ms": row["figures"][setting_key(setting)]["ms"],
        }
        for row in rows
        for setting in settings
        if "ms" in row["figures"].get(setting_key(setting), {})
    ]
    return tables.plot(records, f"classifiers at 224x224, batch 1\n{host['cpu']}")


def write(
    rows: Sequence[Row],
    settings: Sequence[Setting],
    host: Mapping[str, object],
    command: str,
    page: Path = PAGE,
) -> None:
    """Write the page, and the figure to ``images/`` next to it if there is any latency."""
    figure = None
    if any("ms" in part for row in rows for part in row["figures"].values()):
        figure = f"images/{page.stem}.png"
        (page.parent / "images").mkdir(parents=True, exist_ok=True)
        save_figure(draw(rows, settings, host), page.parent / figure)
    write_bytes(text(rows, settings, host, command, figure).encode(), page)
