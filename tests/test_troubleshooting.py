"""docs/troubleshooting.md quotes messages that exist, and ends each entry with a command."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
PARTS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
ENTRIES = [
    entry
    for part in ("Symptoms", "Messages of our commands", "Messages of other packages")
    for entry in re.findall(
        r"^### ([^\n]+)\n(.*?)(?=^### |\Z)", PARTS[part], flags=re.MULTILINE | re.DOTALL
    )
]


def texts() -> list[str]:
    """Return the strings in care_mm, with … for what is formatted into them."""
    found = []
    for file in sorted((ROOT / "care_mm").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


TEXTS = texts()


def exists(message: str) -> bool:
    parts = [re.escape(part.strip()) for part in message.split("…") if part.strip()]
    pattern = re.compile(".*".join(parts), flags=re.DOTALL)
    return any(pattern.search(text) for text in TEXTS)


def quoted() -> list[str]:
    """Return the messages of ours: those with …, and what the check calls the problems."""
    headings = re.findall(r"^### `([^`]+)`", PARTS["Messages of our commands"], flags=re.MULTILINE)
    entries = "".join(body for _, body in ENTRIES)
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", entries, flags=re.DOTALL))
    spans = [" ".join(span.split()) for span in spans]
    return [*headings, *(span for span in spans if "…" in span or span.count(" ") > 3)]


@pytest.mark.parametrize("message", sorted(set(quoted())))
def test_a_quoted_message_exists(message: str) -> None:
    assert exists(message), message


def test_messages_that_do_not_exist_are_noticed() -> None:
    assert not exists("… already holds a cat (…)")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry[0][:40])
def test_an_entry_ends_with_a_command_that_shows_the_cause(entry: tuple[str, str]) -> None:
    _, body = entry
    assert re.search(r"```bash\n[^`]+\n```\s*\Z", body)


@pytest.mark.parametrize("symptom", ["AP is 0", "AP is -1", "boxes are shifted", "is drawn", "NaN"])
def test_the_usual_symptoms_are_listed(symptom: str) -> None:
    assert any(symptom in title for title, _ in ENTRIES)
