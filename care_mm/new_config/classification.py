"""The config of a classifier."""

from __future__ import annotations

from pathlib import Path

from care_mm.errors import InputError
from care_mm.files import write_bytes
from care_mm.new_config import text
from care_mm.new_config.decisions import Scale, choose_flip, choose_schedule
from care_mm.new_config.draft import Draft, Request
from care_mm.new_config.layout import OWN, Found, classes_of, files_below
from care_mm.new_config.splitting import SEED, SHARE, split
from care_mm.new_config.survey import measure_images
from care_mm.predict.files import IMAGE_SUFFIXES

MODELS = ("care",)
_SIDES = (64, 96, 128, 160, 192, 224)
# For batches of 4 from random weights, and of 16 from ImageNet weights.
_RATES = (7e-4, 1e-4)
_TOP = 5


def draft_classifier(request: Request, found: Found) -> Draft:
    """Return the config of a classifier for class folders of the user.

    Raises:
        InputError: The data have no training split, or splits have other classes.
    """
    folders = {name: pairs[0][0] for name, pairs in found.splits.items()}
    if "all" in folders and "train" not in folders:
        folders["train"] = folders.pop("all")
    if "train" not in folders:
        raise InputError(f"{found.root}: there is no training split, only {', '.join(folders)}")
    classes = classes_of(folders["train"])
    for folder in folders.values():
        if odd := set(classes_of(folder)) ^ set(classes):
            raise InputError(
                f"{folder}: has other class folders than {folders['train']}: {min(odd)!r} is in "
                "only one of them"
            )
    images = {name: _images(folder) for name, folder in folders.items()}
    how = ""
    for name, folder in folders.items():
        filled = {image.partition("/")[0] for image in images[name]}
        if empty := [label for label in classes if label not in filled]:
            raise InputError(f"{folder / empty[0]}: has no image: add some, or remove the folder")
    if "val" not in images:
        by_class = [
            split([n for n in images["train"] if n.startswith(f"{label}/")]) for label in classes
        ]
        images["train"] = [name for part in by_class for name in part[0]]
        images["val"] = [name for part in by_class for name in part[1]]
        folders["val"], how = folders["train"], by_class[0][2]
        for name in ("train", "val"):
            _write_list(request.data / OWN / f"{name}.txt", images[name], classes)
    sizes = measure_images([folders["train"] / name for name in images["train"]])
    side = max(sizes.width, sizes.height)
    size = next((s for s in _SIDES if s >= side), 224) if not request.weights.exist else 224
    scale = Scale((size, size), (1.0, 1.0), (size, size), (size, size))
    number = len(images["train"])
    plan = choose_schedule(number, scale, request.weights, request.machine, _RATES, batch=32)
    lines = [
        f"Written by tools/new_config.py for {request.machine}. Data: "
        + ", ".join(f"{len(names):,} images for {name}" for name, names in images.items())
        + f"; {len(classes)} classes; a typical image has {sizes.width} x {sizes.height} pixels.",
    ]
    if how:
        lines.append(
            f"There was no validation split, so {SHARE:.0%} of the images of each class were taken "
            f"with seed {SEED}; {how}."
        )
    parts = [
        "".join(map(text.comment, lines)),
        text.bases(("_base_/models/care.py", "_base_/runtime_cls.py"), request.out),
        _data(request, folders, classes, size, plan.batch, plan.times, bool(how)),
        text.weights_note(request.weights),
        _model(request, len(classes)),
        text.schedule(plan, number, request),
    ]
    return Draft("\n".join(parts), plan)


def _images(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in files_below(folder, IMAGE_SUFFIXES)]


def _write_list(file: Path, names: list[str], classes: list[str]) -> None:
    """Write an annotation file of mmpretrain: a name and the number of its class in each line."""
    file.parent.mkdir(exist_ok=True)
    numbers = {label: number for number, label in enumerate(classes)}
    lines = [f"{name} {numbers[name.partition('/')[0]]}\n" for name in names]
    write_bytes("".join(lines).encode(), file)


def _data(
    request: Request,
    folders: dict[str, Path],
    classes: list[str],
    size: int,
    batch: int,
    times: int,
    listed: bool,
) -> str:
    direction, why = choose_flip(classes)
    flip = f"    dict(type='RandomFlip', prob=0.5, direction={direction!r}),\n" if direction else ""

    def dataset(name: str, pipeline: str) -> str:
        prefix = folders[name].relative_to(request.data).as_posix()
        prefix = "" if prefix == "." else prefix
        lists = listed and name in ("train", "val")
        ann_file = f"ann_file='{OWN}/{name}.txt', " if lists else ""
        return f"dict({ann_file}data_prefix={prefix!r}, pipeline={pipeline}, **dataset)"

    workers = request.machine.workers
    collate = "collate_fn=dict(type='default_collate'),"
    test = (
        text.loader("test", dataset("test", "test_pipeline"), batch, workers, collate)
        if "test" in folders
        else "test_dataloader = val_dataloader"
    )
    train = text.repeated(dataset("train", "train_pipeline"), times)
    top = (1, _TOP) if len(classes) > _TOP else (1,)
    return f"""
classes = {tuple(classes)!r}

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale={size}, crop_ratio_range=(0.3, 1.0)),
{text.indented(text.comment(why))}{flip}    dict(type='PackInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale={round(size / 0.875)}, edge='short'),
    dict(type='CenterCrop', crop_size={size}),
    dict(type='PackInputs')]

dataset = dict(
    type='CustomDataset', data_root={request.data.as_posix()!r}, metainfo=dict(classes=classes))
{text.loader("train", train, batch, workers, collate + " drop_last=True,")}
{text.loader("val", dataset("val", "test_pipeline"), batch, workers, collate)}
{test}
val_evaluator = dict(type='Accuracy', topk={top!r})
test_evaluator = val_evaluator
"""


def _model(request: Request, classes: int) -> str:
    top = (1, _TOP) if classes > _TOP else (1,)
    last = text.channels(request.arch)[-1]
    if request.weights.exist:
        start = f"init_cfg=dict(type='Pretrained', checkpoint={request.weights.path!r})"
    else:  # as the drawn job: a large layer scale, and an initialisation that keeps the variance
        start = (
            "layer_scale_init_value=0.5, init_cfg=dict(type='Kaiming', layer='Conv2d', "
            "mode='fan_in', nonlinearity='linear')"
        )
    backbone = f"dict(arch={request.arch!r}, drop_path_rate=0.0, {start})"
    return f"""model = dict(
    data_preprocessor=dict(num_classes={classes}),
    backbone={backbone},
    head=dict(num_classes={classes}, in_channels={last}, topk={top!r}),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2), dict(type='CutMix', alpha=1.0)]))
"""
