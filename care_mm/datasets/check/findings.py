"""Findings of a data check: problems, which must be fixed, and notes, which need no action."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Kind:
    """A kind of problem or note.

    Attributes:
        name: Noun phrase for one offender, such as ``missing image``.
        advice: The fix for a problem; the consequence of a note.
        is_note: Whether the data can be used as they are.
    """

    name: str
    advice: str
    is_note: bool = False


def note(name: str, consequence: str) -> Kind:
    """Return a kind of note."""
    return Kind(name, consequence, is_note=True)


_CLASSES = 12  # classes whose objects a report counts
NO_EXAMPLE = note("class without an example", "it cannot be learned or evaluated")


@dataclass
class Findings:
    """Problems, notes and counts of one data set or of the model.

    Attributes:
        title: The part of the config, such as ``train``.
        place: Where the data are, such as ``data/coco``.
        summary: The content, such as ``5,000 images, 36,781 annotations, 80 classes``.
        labels: The names of the labels in order; ``None`` if the data do not name them.
        num_classes: Number of classes; ``None`` if unknown.
        num_samples: Number of images in an epoch; ``None`` if unknown.
        objects: Number of objects of each class that reach the loss in an epoch, or that are
            evaluated; empty if unknown.
        left_out: Number of objects that mmdet leaves out, by reason.
        image_ids: The ids of the images in an epoch; ``None`` if they have none.
        most_objects: Number of objects in the densest image that is evaluated.
        is_dense: Whether COCO's mAP does not count all objects of an image.
        offenders: The names of the offenders of each kind.
    """

    title: str = ""
    place: str = ""
    summary: str = ""
    labels: tuple[str, ...] | None = None
    num_classes: int | None = None
    num_samples: int | None = None
    objects: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    image_ids: list[int | str] | None = None
    most_objects: int = 0
    is_dense: bool = False
    offenders: dict[Kind, list[str]] = field(default_factory=dict)

    def add(self, kind: Kind, offenders: str | Iterable[str]) -> None:
        """Add one offender or several; do nothing if there are none."""
        offenders = [offenders] if isinstance(offenders, str) else list(offenders)
        if offenders:
            self.offenders.setdefault(kind, []).extend(offenders)

    @property
    def problems(self) -> list[Kind]:
        """The kinds that must be fixed."""
        return [kind for kind in self.offenders if not kind.is_note]

    def lines(self, show: int = 1) -> Iterator[str]:
        """Yield the report: a summary, then a line for each kind, problems first, then the objects.

        Args:
            show: How many offenders of each kind to name.
        """
        verdict = count_problems(len(self.problems)) if self.problems else "ok"
        yield f"{self.title}: {verdict}" + (f" ({self.summary})" if self.summary else "")
        for kind in sorted(self.offenders, key=lambda kind: kind.is_note):
            count = len(self.offenders[kind])
            first, *more = map(_printable, self.offenders[kind][: max(show, 1)])
            subject = f"{'note: ' if kind.is_note else ''}{count:,} x {kind.name}"
            yield f"  {subject}{': ' if count == 1 else ', e.g. '}{first} ({kind.advice})"
            yield from (f"      {offender}" for offender in more)
        if self.objects:
            yield f"  objects: {self._objects(_CLASSES * max(show, 1))}"

    def _objects(self, most: int) -> str:
        """List the number of objects of the first classes, and of those left out."""
        counts = [f"{_printable(name)} {n:,}" for name, n in list(self.objects.items())[:most]]
        more = len(self.objects) - len(counts)
        counts += [f"and {more:,} more classes"] if more else []
        reasons = ", ".join(f"{n:,} x {reason}" for reason, n in self.left_out.items())
        return ", ".join(counts) + (f"; left out: {reasons}" if reasons else "")


def count_problems(count: int) -> str:
    """Return ``1 problem``, ``2 problems``, and so on."""
    return f"{count} problem{'' if count == 1 else 's'}"


def _printable(text: str) -> str:
    """Escape unprintable characters, since names may come from damaged files."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
