"""What a report says where a part of the analysis could not be done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sim2sky.errors import Sim2SkyError
from sim2sky.report.page import Section, Text

__all__ = ["Refused", "or_refused", "refused_section"]

T = TypeVar("T")


@dataclass(frozen=True)
class Refused:
    """Why a part was not done, in a sentence."""

    reason: str


def or_refused(compute: Callable[[], T]) -> T | Refused:
    """A result, or why there is none: the rest of a report does not depend on it."""
    try:
        return compute()
    except Sim2SkyError as error:
        return Refused(error.message + (f" ({error.hint})" if error.hint else ""))
    except Exception as error:  # said in the report instead of losing all the rest
        return Refused(f"failed with {type(error).__name__}: {error}")


def refused_section(name: str, title: str, refused: Refused) -> Section:
    """The part's place in the report."""
    return Section(name, title, "There is no answer here.", [Text(f"Not done: {refused.reason}.", "unsure")])
