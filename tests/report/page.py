"""Reads a written report as a browser would, without one."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

VOID = frozenset({"meta", "img", "br", "hr", "input", "link"})


class Page(HTMLParser):
    """A parsed page: fails on a tag that is not closed in order.

    Attributes:
        addresses: every attribute that could fetch something.
        tags: every tag that was opened.
        text: what is read, whitespace folded.
        tables: rows of cells' text.
        places: every coordinate of a drawing.
        marks: classes of the circles.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.points: list[tuple[str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.places: list[float] = []
        self.marks: list[str] = []
        self._open: list[str] = []
        self._parts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self._open, f"never closed: {self._open}"
        self.text = " ".join(" ".join(self._parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        held = {name: value or "" for name, value in attrs}
        self.addresses += [held[name] for name in ("src", "href", "srcset", "data", "action", "poster") if name in held]
        assert not [name for name in held if name.startswith("on")]
        if tag == "polyline":
            self.points.append((held["class"], held["points"]))
        drawn = [held[name] for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy") if name in held]
        self.places += [float(each) for each in (*drawn, *held.get("points", "").replace(",", " ").split())]
        if tag == "circle":
            self.marks.append(held["class"])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open[-1:] == [tag], f"</{tag}> closes {self._open[-1:]}"
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("style", "title"):
            return
        self._parts.append(data)
        if "text" not in self._open and ("td" in self._open or "th" in self._open):
            row = self.tables[-1][-1]
            row[-1] = " ".join(f"{row[-1]} {data}".split())

    @property
    def pictures(self) -> list[NDArray[np.uint8]]:
        """The embedded pictures, decoded."""
        head = "data:image/png;base64,"
        found = [each for each in self.addresses if each.startswith(head)]
        opened = [Image.open(io.BytesIO(base64.b64decode(each[len(head) :], validate=True))) for each in found]
        assert {each.format for each in opened} == {"PNG"}
        return [np.asarray(each.convert("RGB")) for each in opened]
