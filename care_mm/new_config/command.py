"""From a folder to a config file: what ``tools/new_config.py`` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from care_mm.config import load_config
from care_mm.errors import InputError, did_you_mean, one_line, refuse_existing
from care_mm.files import write_bytes
from care_mm.new_config import classification, detection, segmentation, text
from care_mm.new_config.decisions import Machine, Weights
from care_mm.new_config.draft import Draft, Request
from care_mm.new_config.layout import OWN, Found, find_layout
from care_mm.new_config.trial import check_data, try_steps

_DRAFTS: dict[str, Callable[[Request, Found], Draft]] = {
    "detection": detection.draft_detector,
    "segmentation": segmentation.draft_segmentor,
    "classification": classification.draft_classifier,
}
MODELS = {
    "detection": detection.MODELS,
    "segmentation": segmentation.MODELS,
    "classification": classification.MODELS,
}


def new_config(
    data: str | Path,
    task: str,
    out: str | Path,
    model: str | None = None,
    arch: str = "s0",
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> str:
    """Write a config for somebody's data.

    Labels of other forms, splits and lists are written into ``DATA/care_mm/``; everything else in
    the folder stays as it is.

    Args:
        data: Folder with images and labels.
        task: ``detection``, ``segmentation`` or ``classification``.
        out: The config file to write; it must not exist.
        model: One of ``MODELS[task]``; by default the one that suits the data.
        arch: Size of CARE: ``s0``, ``s1`` or ``s2``.
        dry_run: Return the config without trying and writing it. Converted labels and lists of
            images are written.
        say: Receives the lines of progress.

    Returns:
        The text of the config.

    Raises:
        InputError: Bad arguments, data without labels for the task, problems in the data, or a
            config that fails its trial.
    """
    out, data = Path(out), Path(data)
    if out.suffix != ".py":
        raise InputError(f"--out {out}: a config's name ends in .py")
    if not dry_run:
        refuse_existing(out, "--out")
    if model is not None and model not in MODELS[task]:
        known = MODELS[task]
        raise InputError(
            f"--model {model}: --task {task} has {', '.join(known)}{did_you_mean(model, known)}"
        )
    found = find_layout(data, task)
    say(f"{data}: {found.form} labels, " + ", ".join(found.splits))
    request = Request(data, out, arch, model, Machine.here(), Weights.of(arch))
    try:
        draft = _DRAFTS[task](request, found)
    except OSError as error:
        raise InputError(
            f"{error.filename or data}: {error.strerror or one_line(error)}; lists and converted "
            f"labels are written into {data / OWN}"
        ) from error
    content = text.formatted(draft.text)
    if dry_run:
        return content
    out.parent.mkdir(parents=True, exist_ok=True)
    # In the folder of the config, so that relative paths to its bases hold.
    trial = out.with_name(f"_{out.stem}_trial.py")
    try:
        trial.write_text(content, encoding="utf-8")
        config = load_config(trial)
        for line in check_data(config):
            say(line)
        losses = try_steps(config)
    finally:
        trial.unlink(missing_ok=True)
    say("first step: " + ", ".join(f"{name} {value:.3g}" for name, value in losses.items()))
    write_bytes(content.encode(), out, overwrite=False)
    if not request.weights.exist:
        say(f"warning: no ImageNet weights at {request.weights.path}: training starts from scratch")
    return content
