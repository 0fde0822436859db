"""The section on why: what causes the gap, as far as the flights can tell."""

from __future__ import annotations

from sim2sky.analysis.attribution import CANNOT_TELL, NOTHING, Attribution
from sim2sky.report.figures import Interval, interval_plot
from sim2sky.report.html import number
from sim2sky.report.metric_sections import probability
from sim2sky.report.page import Block, Plot, Section, Table, Text, Tone
from sim2sky.report.refused import Refused, refused_section

__all__ = ["attribution_section"]


def attribution_section(attribution: Attribution | Refused | None) -> Section | None:
    """Causes by how much of the error each explains; None where nobody asked."""
    if attribution is None:
        return None
    if isinstance(attribution, Refused):
        return refused_section("causes", "What causes it", attribution)
    verdict, causes = attribution.verdict, attribution.causes
    tones: dict[str, Tone] = {CANNOT_TELL: "unsure", NOTHING: "good"}
    said = {
        CANNOT_TELL: f"Cannot tell which cause it is. {_sentence(attribution.advice)}",
        NOTHING: f"Nothing to explain: real and simulated flights differ no more than chance has it "
        f"(p = {probability(attribution.p_value)}).",
    }.get(verdict, f"Most likely: {verdict}. {_sentence(causes[0].description) if causes else ''}")
    blocks: list[Block] = [Text(said, tones.get(verdict, "bad"))]
    if causes:
        rows = [
            Interval(
                c.name, 100.0 * c.explained, 100.0 * c.low, 100.0 * c.high, "--real" if c.name == verdict else "--muted"
            )
            for c in causes
        ]
        figure = interval_plot(
            "causes", rows, x_title="explains [% of the difference]", unit=" %",
            alt="; ".join(f"{c.name}: {c.explained:.0%}" for c in causes),
            caption="Square: share explained by this cause alone. Line: 95 % interval over flights. Shares overlap and "
            "need not add up.",
        )  # fmt: skip
        blocks.append(Plot(figure))
        table = [
            [
                c.name,
                f"{c.explained:.0%}",
                f"{c.low:.0%} to {c.high:.0%}",
                number(c.log_bayes),
                c.description,
            ]
            for c in causes
        ]
        head = ["cause", "explains", "95% interval", "evidence [ln]", "how"]
        blocks.append(Table("Every cause that was weighed, the likeliest first", head, table, numeric=(1, 2, 3)))
    return Section(
        "causes",
        "What causes it",
        "Each cause alone, at its best values: how much of the difference between the flights and their replay in "
        "simulation it takes away. Evidence: logarithm of the Bayes factor against no difference; 3 is 20 to 1.",
        blocks,
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
