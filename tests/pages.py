"""Check that a report is well-formed and self-contained, and that its images decode."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

VOID = {"meta", "img", "br", "hr", "input", "link"}
LOADING = {"src", "href", "data", "srcset", "action", "poster", "xlink:href"}


class Page(HTMLParser):
    """A parsed page; raises AssertionError for what no report may contain.

    Attributes:
        source: The HTML.
        text: The visible text.
        images: Size of each embedded image.
        tags: Number of elements of each kind.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.words: list[str] = []
        self.images: list[tuple[int, int]] = []
        self.tags: dict[str, int] = {}
        self.source = source = file.read_text()
        assert source.startswith("<!DOCTYPE html>")
        for loaded in ("@import", "url(http", "://", "import("):
            assert loaded not in source.split("<pre>")[0], loaded
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name, value in attrs:
            assert not name.startswith("on"), "a script in an attribute"
            if name == "id":
                assert value not in self.ids, f"two of {value}"
                self.ids.add(str(value))
            if name in LOADING and not str(value).startswith("#"):
                head, _, content = str(value).partition("base64,")
                assert head.startswith("data:image/"), value
                with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as image:
                    image.load()
                    self.images.append(image.size)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
            self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)
