"""What a section of a report says and draws."""

from __future__ import annotations

from sim2sky.report.page import Plot, Table, Text


def text_of(section) -> str:
    """All that a section says."""
    said = [section.title, section.lead]
    for block in section.blocks:
        if isinstance(block, Text):
            said.append(block.text)
        elif isinstance(block, Table):
            said += [block.caption, *block.headers, *(cell for row in block.rows for cell in row)]
    return "\n".join(said)


def figure_of(section):
    """Its first figure."""
    return next(b.figure for b in section.blocks if isinstance(b, Plot))
