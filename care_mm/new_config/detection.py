"""The config of a detector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from care_mm.datasets.check.objects import MAX_COUNTED
from care_mm.errors import InputError
from care_mm.new_config import text
from care_mm.new_config.convert import to_coco, write_splits
from care_mm.new_config.decisions import (
    Scale,
    Schedule,
    choose_anchor,
    choose_count,
    choose_flip,
    choose_proposals,
    choose_scale,
    choose_schedule,
)
from care_mm.new_config.draft import Draft, Request
from care_mm.new_config.layout import Found
from care_mm.new_config.splitting import SEED, SHARE, split_coco
from care_mm.new_config.survey import Objects
from care_mm.palette import palette_of

# Model -> its bases, with ImageNet weights and from random weights.
_BASES = {
    "maskrcnn": ("maskrcnn_care.py", "maskrcnn_care_thin.py"),
    "fasterrcnn": ("maskrcnn_care.py", "maskrcnn_care_thin.py"),
    "rtmdet-ins": ("rtmdet-ins_care.py", "rtmdet-ins_care_scratch.py"),
    "rtmdet": ("rtmdet_care.py", "rtmdet_care_scratch.py"),
}
MODELS = tuple(_BASES)
_WITH_MASKS = ("maskrcnn", "rtmdet-ins")
# For batches of 4 from random weights, and of 16 from ImageNet weights.
_RATES = (2e-3, 2e-4)


def draft_detector(request: Request, found: Found) -> Draft:
    """Return the config of a detector for data of the user.

    Raises:
        InputError: The data have no training split, or no masks for a model that needs them.
    """
    files, contents, folders, how = _splits(found)
    train = contents["train"]
    objects = Objects.of(train, files["train"])
    model = request.model or ("maskrcnn" if objects.masks else "fasterrcnn")
    has_masks = model in _WITH_MASKS
    if has_masks and not objects.masks:
        raise InputError(
            f"{files['train']}: --model {model} needs a mask for every object; use fasterrcnn or "
            "rtmdet"
        )
    scale = choose_scale(objects.sizes, request.machine, objects)
    plan = choose_schedule(objects.images, scale, request.weights, request.machine, _RATES)
    numbers = {name: len(content["images"]) for name, content in contents.items()}
    parts = [
        _head(request, found, objects, numbers, how, model),
        text.bases(
            (
                f"_base_/models/{_BASES[model][not request.weights.exist]}",
                "_base_/runtime_det.py",
            ),
            request.out,
        ),
        _data(request, objects, files, folders, scale, plan, has_masks),
        text.weights_note(request.weights),
        _model(request, objects, scale, model),
        text.schedule(plan, objects.images, request, _rates(request, model)),
    ]
    return Draft("\n".join(parts), plan)


def _splits(found: Found) -> tuple[dict[str, Path], dict[str, Any], dict[str, Path], str]:
    """Return the COCO files, their contents, the folders of images, and how they were split."""
    if found.form == "coco":
        files = {split: pairs[0][0] for split, pairs in found.splits.items()}
        folders = {split: pairs[0][1] for split, pairs in found.splits.items()}
        contents = {s: json.loads(f.read_text(encoding="utf-8")) for s, f in files.items()}
    else:
        contents = to_coco(found)
        files, folders = write_splits(found.root, contents), {}
    if "all" in contents and "train" not in contents:
        contents["train"] = contents.pop("all")
        folders["train"] = folders.pop("all", found.root)
        files["train"] = files.pop("all")
    if "train" not in contents:
        raise InputError(f"{found.root}: there is no training split, only {', '.join(contents)}")
    how = ""
    if "val" not in contents:
        parts, how = split_coco(contents["train"])
        contents.update(parts)
        files.update(write_splits(found.root, parts))
        folders["val"] = folders.get("train", found.root)
    return files, contents, folders, how


def _head(
    request: Request, found: Found, objects: Objects, numbers: dict, how: str, model: str
) -> str:
    sides = [round(s * max(objects.sizes.width, objects.sizes.height)) for s in objects.sides]
    lines = [
        f"Written by tools/new_config.py for {request.machine}. Data: "
        + ", ".join(f"{number:,} images for {split}" for split, number in numbers.items())
        + f"; {objects.count:,} objects to train on, {len(objects.classes)} "
        + ("class" if len(objects.classes) == 1 else "classes")
        + f"; a typical image has {objects.sizes.width} x {objects.sizes.height} pixels, and a "
        f"typical object {sides[2]} (small ones {sides[0]}, large ones {sides[3]}).",
    ]
    if found.form != "coco":
        lines.append(f"The {found.form.upper()} labels were converted to COCO files in care_mm/.")
    if how:
        lines.append(
            f"There was no validation split, so {SHARE:.0%} of the images were taken with seed "
            f"{SEED}; {how}."
        )
    if model == "fasterrcnn" and not objects.masks:
        lines.append("Not all objects have masks, so the model predicts boxes only.")
    return "".join(map(text.comment, lines))


def _data(
    request: Request,
    objects: Objects,
    files: dict[str, Path],
    folders: dict[str, Path],
    scale: Scale,
    plan: Schedule,
    masks: bool,
) -> str:
    root = request.data
    direction, why = choose_flip(objects.classes)
    flip = f"dict(type='RandomFlip', prob=0.5, direction={direction!r}),\n" if direction else ""

    def dataset(split: str, pipeline: str, extra: str = "") -> str:
        prefix = _below(folders.get(split, root), root)
        return (
            f"dict(type='CocoDataset', data_root=data_root, metainfo=metainfo, "
            f"ann_file={_below(files[split], root)!r}, data_prefix=dict(img={prefix!r}), "
            f"{extra}pipeline={pipeline})"
        )

    def evaluator(split: str) -> str:
        dense = objects.densest > MAX_COUNTED
        kind = "DenseCocoMetric" if dense else "CocoMetric"
        note = (
            text.comment(
                f"COCO's mAP counts {MAX_COUNTED} objects of a class in an image; there are up to "
                f"{objects.densest}, and this metric counts all of them."
            )
            if dense and split == "val"
            else ""
        )
        metrics = ["bbox", "segm"] if masks else ["bbox"]
        return (
            f"{note}{split}_evaluator = dict(type={kind!r}, ann_file=data_root + "
            f"{_below(files[split], root)!r}, metric={metrics!r}, classwise=True)\n"
        )

    workers = request.machine.workers
    has_test = "test" in files
    train = text.repeated(dataset("train", "train_pipeline"), plan.times)
    test = "test_dataloader = val_dataloader"
    if has_test:
        test = text.loader("test", dataset("test", "test_pipeline", "test_mode=True, "), 1, workers)
    crop = text.comment(
        "Crops keep the cost of a step constant. They cut objects, so boxes and masks without an "
        "area are removed behind them; without that the loss may become NaN."
    )
    return f"""
classes = {objects.classes!r}
metainfo = dict(classes=classes, palette={palette_of(len(objects.classes))!r})
data_root = {_slash(root)!r}

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask={masks}),
    dict(type='RandomResize', scale={scale.train}, ratio_range={scale.ratios}, keep_ratio=True),
{text.indented(crop)}    dict(type='RandomCrop', crop_size={scale.crop}, allow_negative_crop=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2), by_mask={masks}),
{text.indented(text.comment(why))}    {flip}    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale={scale.test}, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask={masks}),
    dict(type='PackDetInputs',
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]

{text.loader("train", train, plan.batch, workers)}
{text.loader("val", dataset("val", "test_pipeline", "test_mode=True, "), 1, workers)}
{test}
{evaluator("val")}
{evaluator("test") if has_test else "test_evaluator = val_evaluator"}
"""


def _model(request: Request, objects: Objects, scale: Scale, model: str) -> str:
    count, number = choose_count(objects.densest), len(objects.classes)
    dense = text.comment(f"The densest image has {objects.densest} objects.")
    start = f"backbone={text.backbone(request.arch, request.weights)},"
    if model.startswith("rtmdet"):
        neck = ""
        if request.arch == "s2":  # the bases have the channels of the other sizes
            maps = text.channels(request.arch)[1 if request.weights.exist else 0 :]
            neck = f"neck=[dict(_base_.model.neck[0], in_channels={maps}), _base_.model.neck[1]],"
        return f"""{dense}model = dict(
    {start} {neck}
    bbox_head=dict(num_classes={number}), test_cfg=dict(max_per_img={max(300, count)}))
"""
    anchor = choose_anchor(objects, scale)
    proposals = choose_proposals(objects.densest, 1000 if request.weights.exist else 200)
    rpn = f"nms_pre={max(1000, 2 * proposals)}, max_per_img={proposals}"
    small = objects.sides[1] * max(scale.train)
    note = text.comment(
        f"A quarter of the objects is smaller than {small:.0f} pixels at the size of training, so "
        f"anchors have {anchor} times the stride."
    )
    masks = f"mask_head=dict(num_classes={number})"
    if model == "fasterrcnn":
        start, masks = f"type='FasterRCNN', {start}", "mask_roi_extractor=None, mask_head=None"
    # The base samples 64 anchors, which are few among a hundred objects.
    is_thin = not request.weights.exist
    sampler = "rpn=dict(sampler=dict(num=256)), " if is_thin and objects.densest > 50 else ""
    return f"""{note}{dense}model = dict(
    {start}
    neck=dict(in_channels={text.channels(request.arch)}),
    rpn_head=dict(anchor_generator=dict(scales=[{anchor}])),
    roi_head=dict(bbox_head=dict(num_classes={number}), {masks}),
    train_cfg=dict({sampler}rpn_proposal=dict({rpn})),
    test_cfg=dict(rpn=dict({rpn}), rcnn=dict(max_per_img={count})))
"""


def _rates(request: Request, model: str) -> str:
    """Return the rates of the thin heads, as the drawn jobs have them."""
    if request.weights.exist or model.startswith("rtmdet"):
        return ""
    note = text.comment(
        "The wide fully connected layer of the box head dies at the rate that suits the "
        "convolutions."
    )
    return note + "paramwise_cfg=dict(custom_keys={'shared_fcs': dict(lr_mult=0.2)})"


def _below(path: Path, root: Path) -> str:
    """Return a path relative to the root of the data, with ``/`` at the end of a folder."""
    relative = path.relative_to(root).as_posix()
    if path.is_dir():
        return "" if relative == "." else f"{relative}/"
    return relative


def _slash(root: Path) -> str:
    return f"{root.as_posix()}/"
