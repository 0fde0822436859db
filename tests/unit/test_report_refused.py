"""A part that cannot be done is said in its place; the rest goes on."""

from __future__ import annotations

import numpy as np
import pytest

from sim2sky.errors import NotSupportedError
from sim2sky.report.refused import Refused, or_refused, refused_section


def test_a_result_is_passed_on():
    assert or_refused(lambda: 3) == 3


def test_a_refusal_keeps_its_reason_and_its_hint():
    def refuse():
        raise NotSupportedError("replaying a balloon", hint="fly an aeroplane")

    found = or_refused(refuse)
    assert found == Refused("not supported: replaying a balloon (fly an aeroplane)")
    section = refused_section("causes", "What causes it", found)
    assert (section.id, section.title) == ("causes", "What causes it")
    assert section.blocks[0].tone == "unsure"
    assert section.blocks[0].text == "Not done: not supported: replaying a balloon (fly an aeroplane)."


@pytest.mark.parametrize(
    ("error", "says"),
    [(np.linalg.LinAlgError("Singular matrix"), "LinAlgError: Singular matrix"), (KeyError("q"), "KeyError: 'q'")],
)
def test_a_failure_is_named_not_hidden(error, says):
    def fail():
        raise error

    assert or_refused(fail) == Refused(f"failed with {says}")


def test_an_interrupt_is_not_swallowed():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        or_refused(interrupt)
