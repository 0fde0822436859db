"""The section on the aircraft's parameters: what the flights tell, what they do not, and what would."""

from __future__ import annotations

from collections.abc import Sequence

from sim2sky.analysis.identification import Identification, ParameterEstimate
from sim2sky.report.figures import Interval, interval_plot
from sim2sky.report.html import number, signed
from sim2sky.report.page import Block, Plot, Section, Table, Text
from sim2sky.report.refused import Refused, refused_section
from sim2sky.report.replay_section import Replay

__all__ = ["parameter_section", "with_identified"]


def parameter_section(identification: Identification | Refused | None) -> Section | None:
    """What the flights tell of the aircraft's parameters, what they do not, and what would."""
    if identification is None:
        return None
    if isinstance(identification, Refused):
        return refused_section("parameters", "Parameters of the aircraft", identification)
    told = [p for p in identification.parameters if p.identifiable]
    untold = [p for p in identification.parameters if not p.identifiable]
    blocks: list[Block] = []
    if not told:
        blocks.append(Text("Cannot tell a single parameter from these flights: all stay at their priors.", "unsure"))
    relative = [p for p in told if p.prior]
    if relative:
        rows = [_row(p) for p in relative]
        figure = interval_plot(
            "parameters", rows, x_title="change from the simulator's value [%]", unit=" %",
            alt="; ".join(f"{p.name}: {_relative(p)}" for p in relative),
            caption="Square: estimate. Line: 95 % interval. Parameters whose prior is 0 are in the table only.",
        )  # fmt: skip
        blocks.append(Plot(figure))
    if told:
        head = ["parameter", "unit", "prior", "estimate", "95% interval", "change"]
        table = [
            [p.name, p.unit, number(p.prior), number(p.estimate), f"{number(p.low)} to {number(p.high)}", _relative(p)]
            for p in told
        ]
        blocks.append(Table("Told by the flights", head, table, numeric=(2, 3, 4, 5)))
    if untold:
        head = ["parameter", "unit", "prior, kept", "95% interval of the prior", "what would tell"]
        table = [[p.name, p.unit, number(p.estimate), f"{number(p.low)} to {number(p.high)}", p.advice] for p in untold]
        blocks.append(Table("Not told by the flights: these stay as they were", head, table, numeric=(2, 3)))
    return Section(
        "parameters",
        "Parameters of the aircraft",
        f"Identified from {len(identification.flights)} flights, {identification.windows} windows of a second. An "
        "interval wider than ±25 % means: not told.",
        blocks,
    )


def _row(p: ParameterEstimate) -> Interval:
    """Changes in percent; the ends stay ordered after division by a negative prior."""
    value, *ends = (100.0 * (v / p.prior - 1.0) for v in (p.estimate, p.low, p.high))
    return Interval(p.name, value, min(ends), max(ends), "--real")


def _relative(p: ParameterEstimate) -> str:
    return f"{signed(100.0 * (p.estimate / p.prior - 1.0))} %" if p.prior else "n/a"


def with_identified(
    found: Sequence[Replay] | Refused | None, identification: Identification | Refused | None
) -> Sequence[Replay] | Refused | None:
    """With the errors on the flights that the identification has not seen, under the aircraft it found."""
    if not isinstance(identification, Identification) or not identification.replay_after:
        return found
    known = () if found is None or isinstance(found, Refused) else tuple(found)
    return *known, Replay("held-out flights, as identified", "--good", identification.replay_after)
