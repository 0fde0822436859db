"""What a report consists of, before any HTML: a verdict, then sections of text, tables, figures and pictures.

The template `report.html.j2` turns a `Page` into one file; whoever makes a report fills these classes.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from sim2sky.report.figures import Figure
from sim2sky.report.html import render

__all__ = ["Block", "Fact", "Grid", "Page", "Picture", "Plot", "Section", "Table", "Text", "Tone", "Verdict", "to_html"]

Tone = Literal["good", "bad", "unsure", "plain"]


@dataclass(frozen=True)
class Text:
    """A paragraph, or with more than one line a list below its first line."""

    text: str
    tone: Tone = "plain"
    kind: str = "text"

    @property
    def lines(self) -> list[str]:
        """Its lines, without what marks them as a list."""
        return [line.strip().removeprefix("- ") for line in self.text.splitlines() if line.strip()]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its header.

    Attributes:
        caption: above it.
        headers: one per column.
        rows: cells as text.
        numeric: columns to align right.
        code: columns in a fixed-width face that may break anywhere.
        tones: by row: what colour its last cell has.
    """

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[int] = ()
    code: Sequence[int] = ()
    tones: Sequence[Tone] = ()
    kind: str = "table"

    def tone(self, row: int) -> Tone:
        """Of a row's last cell."""
        return self.tones[row] if row < len(self.tones) else "plain"


@dataclass(frozen=True)
class Picture:
    """A PNG that travels inside the page."""

    png: bytes
    alt: str
    caption: str
    kind: str = "picture"

    @property
    def uri(self) -> str:
        """As a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Plot:
    """A figure of plotly in the page."""

    figure: Figure
    kind: str = "plot"


@dataclass(frozen=True)
class Grid:
    """Figures beside each other where there is room, each with a title."""

    figures: Sequence[tuple[str, Figure]]
    kind: str = "grid"


Block = Text | Table | Picture | Plot | Grid


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        id: anchor.
        title: heading.
        lead: what it shows and how to read it, in a sentence or two.
        blocks: what is in it.
    """

    id: str
    title: str
    lead: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Verdict:
    """What the reader came for.

    Attributes:
        word: in large letters.
        tone: its colour and sign.
        sentence: what it means here.
        decision: what to do now.
        rule: why, with the numbers.
    """

    word: str
    tone: Tone
    sentence: str
    decision: str
    rule: str

    @property
    def sign(self) -> str:
        """For who sees no colours."""
        return {"good": "✓", "bad": "✕", "unsure": "?", "plain": "•"}[self.tone]


@dataclass(frozen=True)
class Fact:
    """A number on top of the page."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str
    verdict: Verdict
    facts: Sequence[Fact]
    sections: Sequence[Section]
    banners: Sequence[str] = ()
    footer: Sequence[str] = field(default=())

    @property
    def figures(self) -> list[Figure]:
        """All figures, in order."""
        blocks = [block for section in self.sections for block in section.blocks]
        found: list[Figure] = []
        for block in blocks:
            if isinstance(block, Plot):
                found.append(block.figure)
            elif isinstance(block, Grid):
                found += [figure for _, figure in block.figures]
        return found


def to_html(page: Page) -> str:
    """The page as one HTML document that loads nothing.

    Raises:
        MissingExtraError: jinja2 or plotly is not installed.
    """
    return render("report.html.j2", {"page": page})
