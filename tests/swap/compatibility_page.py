"""The tables of docs/compatibility.md, which tests compare with their results, or write."""

from __future__ import annotations

import os
import re
from pathlib import Path

PATH = Path(__file__).parents[2] / "docs" / "compatibility.md"
WRITE = os.environ.get("CARE_MM_WRITE_DOCS") == "1"


class Page:
    """Some tables of the page; a test compares its row, or collects it for :meth:`write`.

    Args:
        headers: Name of a table -> its header.
        notes: Whether a list of notes belongs to the tables.
    """

    def __init__(self, headers: dict[str, tuple[str, ...]], notes: bool = False) -> None:
        self.headers = headers
        self.text = PATH.read_text(encoding="utf-8")
        self.rows: dict[str, list[str]] = {table: [] for table in headers}
        self.has_notes = notes
        listed = re.findall(r"^(\d+)\. (`.+)$", self.text, flags=re.M)
        self.notes = {} if WRITE else {note: number for number, note in listed}

    def add(self, table: str, *cells: str) -> None:
        """Add a row to a table."""
        row = f"| {' | '.join(cells)} |\n"
        self.rows[table].append(row)
        assert WRITE or row in self.text, (
            f"docs/compatibility.md lacks {row}Run this file with CARE_MM_WRITE_DOCS=1"
        )

    def number(self, note: str) -> str:
        """Return the number of a note below the table."""
        if WRITE:
            self.notes.setdefault(note, str(len(self.notes) + 1))
        assert note in self.notes, "Run this file with CARE_MM_WRITE_DOCS=1"
        return self.notes[note]

    def write(self) -> None:
        """Replace the tables and the notes in the file; do nothing without the variable."""
        if not WRITE:
            return
        parts = {}
        if self.has_notes:
            parts["notes"] = [f"{number}. {note}\n" for note, number in self.notes.items()]
        for table, header in self.headers.items():
            rule = "|---" * len(header) + "|\n"
            parts[table] = [f"| {' | '.join(header)} |\n", rule, *self.rows[table]]
        for name, lines in parts.items():
            start, end = f"<!-- {name} -->\n", "<!-- end -->"
            before, _, after = self.text.partition(start)
            after = after.partition(end)[2]
            self.text = before + start + "".join(lines) + end + after
        PATH.write_text(self.text, encoding="utf-8")
