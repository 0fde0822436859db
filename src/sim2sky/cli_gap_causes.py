"""What `sim2sky gap` says of the causes of a gap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim2sky.analysis.attribution import Attribution
    from sim2sky.report.refused import Refused

__all__ = ["attributed", "causes_json", "causes_lines"]

SHOWN = 3


def attributed(sim: Path, real: Path) -> Attribution | Refused:
    """The causes of the difference between two logs, or why they cannot be told."""
    from rich.console import Console

    from sim2sky.analysis.attribution import attribute
    from sim2sky.analysis.flights import load_flights
    from sim2sky.report.refused import or_refused

    with Console(stderr=True).status("looking for causes"):
        return or_refused(lambda: attribute(load_flights(sim), load_flights(real)))


def causes_json(found: Attribution | Refused | None) -> dict[str, Any] | None:
    """JSON-compatible; None where nobody asked."""
    from sim2sky.report.refused import Refused

    if isinstance(found, Refused):
        return {"verdict": "refused", "reason": found.reason}
    return None if found is None else found.to_json()


def causes_lines(found: Attribution | Refused | None) -> list[str]:
    """A few lines for a reader; none where nobody asked."""
    from sim2sky.report.refused import Refused

    if found is None:
        return []
    if isinstance(found, Refused):
        return ["", f"cause: cannot tell: {found.reason}"]
    lines = ["", f"cause: {found.verdict}"]
    lines += [f"  {cause.name:13} {cause.description}" for cause in found.causes[:SHOWN]]
    return [*lines, f"  {found.advice}"] if found.advice else lines
