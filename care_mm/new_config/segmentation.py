"""The config of a segmentor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from care_mm.errors import InputError
from care_mm.files import write_bytes
from care_mm.new_config import text
from care_mm.new_config.decisions import Scale, choose_flip, choose_scale, choose_schedule
from care_mm.new_config.draft import Draft, Request
from care_mm.new_config.layout import OWN, Found, Pair
from care_mm.new_config.splitting import SEED, SHARE, split
from care_mm.new_config.survey import mask_values, measure_images
from care_mm.palette import palette_of

# Model -> its bases, with ImageNet weights and from random weights.
_BASES = {
    "semfpn": ("semfpn_care.py", "semfpn_care_thin.py"),
    "segformer": ("segformer_care.py", "segformer_care_scratch.py"),
}
MODELS = tuple(_BASES)
IGNORED = 255
_NAMES = ("classes.txt", "labels.txt", "label_names.txt")
_RATES = (2e-3, 2e-4)
# Among several classes, the loss weighs them if one has a smaller share of the pixels.
_RARE = 0.02


def draft_segmentor(request: Request, found: Found) -> Draft:
    """Return the config of a segmentor for data of the user.

    Raises:
        InputError: The data have no training split, masks of a kind that mmseg does not read, or
            other numbers than their names.
    """
    splits, how = _splits(found)
    splits, binary = _numbered(found.root, splits)
    masks = [mask for _, mask in splits["train"]]
    values = mask_values(masks)
    labels = sorted(value for value in values if value != IGNORED)
    if not labels:
        raise InputError(f"{masks[0].parent}: all pixels of the masks are {IGNORED}, ignored")
    classes = ("background", "object") if binary else _classes(found.root, labels)
    sizes = measure_images([image for image, _ in splits["train"]])
    scale = choose_scale(sizes, request.machine)
    images = len(splits["train"])
    plan = choose_schedule(images, scale, request.weights, request.machine, _RATES)
    total = sum(values[label] for label in labels)
    shares = [values[label] / total for label in range(len(classes))]
    listed = ", ".join(f"{classes[label]} {shares[label]:.1%}" for label in labels[:12])
    lines = [
        f"Written by tools/new_config.py for {request.machine}. Data: "
        + ", ".join(f"{len(pairs):,} images for {name}" for name, pairs in splits.items())
        + f"; {len(classes)} classes; a typical image has {sizes.width} x {sizes.height} pixels.",
        f"Shares of the pixels: {listed}.",
    ]
    if binary:
        lines.append("The masks held 0 and 255; care_mm/masks has them with 0 and 1.")
    if how:
        lines.append(
            f"There was no validation split, so {SHARE:.0%} of the images were taken with seed "
            f"{SEED}; {how}."
        )
    model = request.model or "semfpn"
    base = _BASES[model][not request.weights.exist]
    names = (f"_base_/models/{base}", "_base_/runtime_seg.py")
    parts = [
        "".join(map(text.comment, lines)),
        text.bases(names, request.out),
        _data(request, classes, splits, scale, plan.batch, plan.times, bool(how)),
        text.weights_note(request.weights),
        _model(request, shares, scale, model),
        text.schedule(plan, images, request),
        _epochs(),
    ]
    return Draft("\n".join(parts), plan)


def _splits(found: Found) -> tuple[dict[str, list[Pair]], str]:
    splits = dict(found.splits)
    if "all" in splits and "train" not in splits:
        splits["train"] = splits.pop("all")
    if "train" not in splits:
        raise InputError(f"{found.root}: there is no training split, only {', '.join(splits)}")
    if "val" in splits:
        return {name: splits[name] for name in ("train", "val", "test") if name in splits}, ""
    by_name = {pair[0].relative_to(found.root).as_posix(): pair for pair in splits["train"]}
    train, val, how = split(list(by_name))
    parts = {"train": [by_name[name] for name in train], "val": [by_name[name] for name in val]}
    return {**parts, **({"test": splits["test"]} if "test" in splits else {})}, how


def _numbered(root: Path, splits: dict[str, list[Pair]]) -> tuple[dict[str, list[Pair]], bool]:
    """Write masks of 0 and 255, as image editors save them, with 0 and 1.

    Returns:
        The pairs, and whether masks were written.
    """
    if set(mask_values([mask for _, mask in splits["train"]])) != {0, 255}:
        return splits, False
    copied: dict[str, list[Pair]] = {}
    for name, pairs in splits.items():
        for image, mask in pairs:
            target = root / OWN / "masks" / mask.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            pixels = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
            _, encoded = cv2.imencode(target.suffix, (pixels > 127).astype(np.uint8))
            write_bytes(encoded.tobytes(), target)
            copied.setdefault(name, []).append((image, target))
    return copied, True


def _classes(root: Path, labels: Sequence[int]) -> tuple[str, ...]:
    """Return a name for each label from 0, from a list of names next to the data if there is one.

    Raises:
        InputError: The list has fewer names than the masks have labels.
    """
    for file in (root / name for name in _NAMES):
        if file.is_file():
            names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
            names = [name for name in names if name]
            if len(names) <= max(labels):
                raise InputError(
                    f"{file}: has {len(names)} names, and the masks hold {max(labels)}: give each "
                    "number from 0 a line"
                )
            return tuple(names)
    return tuple(f"class {label}" for label in range(max(labels) + 1))


def _common(paths: Sequence[Path]) -> Path:
    """Return the deepest folder that holds all files."""
    folder = paths[0].parent
    while not all(path.is_relative_to(folder) for path in paths):
        folder = folder.parent
    return folder


def _data(
    request: Request,
    classes: tuple[str, ...],
    splits: dict[str, list[Pair]],
    scale: Scale,
    batch: int,
    times: int,
    listed: bool,
) -> str:
    """Return the data, which lists in files name if ``listed``."""
    image_suffix, mask_suffix = _suffixes([pair for pairs in splits.values() for pair in pairs])
    direction, why = choose_flip(classes)
    flip = f"    dict(type='RandomFlip', prob=0.5, direction={direction!r}),\n" if direction else ""

    def dataset(name: str, pipeline: str) -> str:
        pairs = splits[name]
        images, masks = _common([i for i, _ in pairs]), _common([m for _, m in pairs])
        ann_file = ""
        if listed:
            file = request.data / OWN / f"{name}.txt"
            stems = [i.relative_to(images).as_posix()[: -len(image_suffix)] for i, _ in pairs]
            file.parent.mkdir(exist_ok=True)
            write_bytes("".join(f"{stem}\n" for stem in stems).encode(), file)
            ann_file = f"ann_file='{OWN}/{name}.txt', "
        return (
            f"dict({ann_file}data_prefix=dict(img_path={_below(images, request.data)!r}, "
            f"seg_map_path={_below(masks, request.data)!r}), pipeline={pipeline}, **dataset)"
        )

    workers = request.machine.workers
    names = "" if "test" not in splits else dataset("test", "test_pipeline")
    test = text.loader("test", names, 1, workers) if names else "test_dataloader = val_dataloader"
    return f"""
classes = {classes!r}
data_root = {request.data.as_posix()!r}

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale={scale.train}, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size={scale.crop}, cat_max_ratio=0.75),
{text.indented(text.comment(why))}{flip}    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale={scale.test}, keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]

dataset = dict(
    type='BaseSegDataset', data_root=data_root, img_suffix={image_suffix!r},
    seg_map_suffix={mask_suffix!r}, reduce_zero_label=False,
    metainfo=dict(classes=classes, palette={palette_of(len(classes))!r}))
{text.loader("train", text.repeated(dataset("train", "train_pipeline"), times), batch, workers)}
{text.loader("val", dataset("val", "test_pipeline"), 1, workers)}
{test}
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
"""


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _suffixes(pairs: Sequence[Pair]) -> tuple[str, str]:
    """Return the suffix of images and what masks have in its place.

    Raises:
        InputError: The files have different ones, which mmseg's data sets do not read.
    """
    suffixes = {(image.suffix, mask.name[len(image.stem) :]) for image, mask in pairs}
    if len(suffixes) > 1:
        several = ", ".join(sorted({suffix for pair in suffixes for suffix in pair}))
        raise InputError(
            f"{pairs[0][0].parent}: mmseg reads images of one suffix and masks of one, these have "
            f"{several}: convert them to one"
        )
    return suffixes.pop()


def class_weights(shares: Sequence[float]) -> list[float]:
    """Return the weight of each class in the loss; none for classes without a rare one.

    Weights rise as shares fall, 1 / ln(1.02 + share), from 1.4 to 50 (ENet, arXiv 1606.02147,
    section 5.2).

    Args:
        shares: Share of the pixels of each class, from 0 to 1.
    """
    if len(shares) < 3 or min(shares) >= _RARE:
        return []
    return [round(1 / math.log(1.02 + share), 1) for share in shares]


def _weighs_ignored() -> bool:
    """Whether mmseg weighs classes where pixels are ignored; 1.2.2 fails (its issue 3734)."""
    try:
        from mmseg.models.losses import CrossEntropyLoss
    except ImportError:  # --dry-run needs no mmseg
        return True
    loss = CrossEntropyLoss(class_weight=[1.0, 1.0], avg_non_ignore=False)
    try:
        loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, IGNORED]]]), ignore_index=IGNORED)
    except IndexError:
        return False
    return True


def _model(request: Request, shares: Sequence[float], scale: Scale, model: str) -> str:
    maps = f"in_channels={text.channels(request.arch)}"
    # SyncBN, which is the norm of the bases with ImageNet weights, needs a GPU.
    is_sync = request.weights.exist and request.machine.device == "cpu"
    norm = ", norm_cfg=dict(type='BN')" if is_sync else ""
    neck = f"neck=dict({maps})," if model == "semfpn" else ""
    inputs = "" if model == "semfpn" else f"{maps}, "
    weights = class_weights(shares)
    why = loss = ""
    if weights and _weighs_ignored():
        why = (
            "Some classes are rare, so the loss weighs pixels by 1 / ln(1.02 + share of their "
            "class), as ENet does. This raises the mIoU in short training; without class_weight, "
            "more pixels are right."
        )
        loss = f", loss_decode=dict(class_weight={weights})"
    elif weights:
        why = (
            "Some classes are rare. The loss could weigh them (class_weight), but this version of "
            "mmseg fails where pixels are ignored."
        )
    return f"""{text.comment(why)}model = dict(
    data_preprocessor=dict(size={scale.crop}),
    backbone={text.backbone(request.arch, request.weights)},
    {neck}
    decode_head=dict({inputs}num_classes={len(shares)}{norm}{loss}))
"""


def _epochs() -> str:
    """Return the parts of the runtime that count epochs where ours for segmentors count steps."""
    return (
        text.comment("This config counts epochs, unlike mmseg's own, which count iterations.")
        + """default_hooks = dict(
    logger=dict(interval=20, log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=1, save_best='mIoU'))
log_processor = dict(by_epoch=True)
"""
    )
