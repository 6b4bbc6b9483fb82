"""What a check of data found: problems, which have to be mended, and notes, which need not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Kind:
    """A kind of problem or note.

    Attributes:
        one: What is said of one offender, as in ``image is missing``.
        many: The same of several, as in ``images are missing``.
        advice: What to do about a problem; what comes of it for a note.
        fatal: A problem; otherwise a note.
    """

    one: str
    many: str
    advice: str
    fatal: bool = True


def note(one: str, many: str, advice: str) -> Kind:
    """A kind of note: the data serve as they are."""
    return Kind(one, many, advice, fatal=False)


@dataclass
class Findings:
    """What is wrong, and what is worth knowing, about one data set or about the model.

    Attributes:
        title: Of what, as in ``train``.
        place: Where it lies, as in ``data/coco``.
        summary: What it holds, as in ``5,000 images, 36,781 annotations, 80 classes``.
        labels: The names of the labels in their order, as far as the data themselves say; ``None``
            where they do not.
        num_classes: How many classes there are; ``None`` where nothing says.
        num_samples: How many images an epoch has; ``None`` where it is not known.
    """

    title: str
    place: str = ""
    summary: str = ""
    labels: tuple[str, ...] | None = None
    num_classes: int | None = None
    num_samples: int | None = None
    found: dict[Kind, list[str]] = field(default_factory=dict)

    def add(self, kind: Kind, offenders: str | Iterable[str]) -> None:
        """Add one offender or several; nothing happens where there are none."""
        offenders = [offenders] if isinstance(offenders, str) else list(offenders)
        if offenders:
            self.found.setdefault(kind, []).extend(offenders)

    @property
    def problems(self) -> list[Kind]:
        """The kinds that have to be mended."""
        return [kind for kind in self.found if kind.fatal]

    def lines(self, show: int = 1) -> Iterator[str]:
        """The report: a line for all, then one for each kind, problems first.

        Args:
            show: Of so many offenders of a kind the names are given.
        """
        count = len(self.problems)
        verdict = "well" if not count else "1 problem" if count == 1 else f"{count} problems"
        yield f"{self.title}: {self.summary}{': ' if self.summary else ''}{verdict}"
        notes = [kind for kind in self.found if not kind.fatal]
        for kind in (*self.problems, *notes):
            offenders = self.found[kind]
            number = len(offenders)
            what = f"1 {kind.one}: " if number == 1 else f"{number:,} {kind.many}, the first is "
            first, *more = map(_printable, offenders[: max(show, 1)])
            yield f"  {'' if kind.fatal else 'note: '}{what}{first}: {kind.advice}"
            yield from (f"      {offender}" for offender in more)


def _printable(text: str) -> str:
    """In one line, of characters that any terminal takes: names come out of damaged files, too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
