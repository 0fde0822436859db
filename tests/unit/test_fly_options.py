"""What `fly` is told, and what it refuses; the switches on the pilot's transmitter."""

from __future__ import annotations

import inspect
import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky import cli
from sim2sky.errors import ConfigError
from sim2sky.runtime.fly_options import (
    Engage,
    FlyOptions,
    parse_engage,
    parse_rc_channel,
    parse_setpoint,
    parse_vehicle,
    parser,
)
from sim2sky.runtime.link import Address
from sim2sky.runtime.rc_switch import STEADY_NS, Edge, RcSwitch

GIVEN: dict[str, Any] = {
    "vehicle": "udp:127.0.0.1:14550", "engage": "rc:7", "kill": "", "setpoint": "", "hand_back": "loiter",
    "duration_s": math.inf, "log": None, "overwrite": False, "signing_key": None, "realtime": False, "source": None,
    "connect_timeout_s": 30.0,
}  # fmt: skip


def test_vehicles() -> None:
    assert parse_vehicle("udp:10.0.0.1:14550") == (False, Address("udp", "10.0.0.1", 14550))
    assert parse_vehicle("serial:/dev/ttyACM0:57600") == (False, Address("serial", "/dev/ttyACM0", 57600))
    assert parse_vehicle("teensy:/dev/ttyACM0:115200") == (True, Address("serial", "/dev/ttyACM0", 115200))
    with pytest.raises(ConfigError, match="serial:DEVICE:BAUD"):
        parse_vehicle("teensy:/dev/ttyACM0")


def test_who_engages() -> None:
    assert (parse_engage("now"), parse_engage("mavlink"), parse_engage("rc:9")) == (
        Engage("now"), Engage("mavlink"), Engage("rc", 9),
    )  # fmt: skip
    for text in ("", "rc", "rc:", "rc:0", "rc:19", "rc:x", "rc:-1", "later"):
        with pytest.raises(ConfigError):
            parse_engage(text)
    for stick in ("rc:1", "rc:4"):
        with pytest.raises(ConfigError, match="is a stick"):
            parse_rc_channel(stick)


def test_setpoints_are_in_peoples_units() -> None:
    assert parse_setpoint("altitude=150,heading=90,p=-45") == pytest.approx(
        {"altitude_m": 150.0, "heading_rad": math.pi / 2, "p_radps": -math.pi / 4}
    )
    assert parse_setpoint("") == {}
    with pytest.raises(ConfigError, match="no 'altitud'") as caught:
        parse_setpoint("altitud=3")
    assert "did you mean 'altitude'" in caught.value.hint
    for text in ("altitude", "altitude=", "altitude=nan", "altitude=inf", "altitude=1m"):
        with pytest.raises(ConfigError, match="no number"):
            parse_setpoint(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kill": "rc:7"}, "both engage and kill"),
        ({"vehicle": "teensy:/dev/ttyACM0:115200"}, "Teensy has no"),
        ({"duration_s": 0.0}, "must be above 0"),
        ({"duration_s": math.nan}, "must be above 0"),
        ({"connect_timeout_s": -1.0}, "must be above 0"),
        ({"kill": "8"}, "no receiver channel"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str) -> None:
    assert FlyOptions.of(**GIVEN).engage == Engage("rc", 7)
    with pytest.raises(ConfigError, match=message):
        FlyOptions.of(**{**GIVEN, **changes})


def test_laptop_and_target_take_the_same_options_with_the_same_defaults() -> None:
    target = {a.dest: a.default for a in parser("x")._actions if a.dest not in {"help", "bundle", "vehicle"}}
    laptop = {
        name: p.default
        for name, p in inspect.signature(cli.fly).parameters.items()
        if name not in {"bundle", "vehicle"}
    }
    assert target == laptop


# The switch ----------------------------------------------------------------------------------------------------------


def feed(switch: RcSwitch, widths: list[int], step_ns: int = 100_000_000) -> list[Edge]:
    edges = [switch.update((0,) * 6 + (w,), k * step_ns) for k, w in enumerate(widths)]
    return [edge for edge in edges if edge is not None]


def test_a_switch_counts_when_it_has_been_steady() -> None:
    assert feed(RcSwitch(7), [1000] * 4 + [2000] * 4 + [1000] * 4) == [Edge.ON, Edge.OFF]
    assert feed(RcSwitch(7), [1000] * 4 + [2000] + [1000] * 4) == []  # one frame is a glitch
    assert feed(RcSwitch(7), [2000] * 8) == []  # on from the start
    assert feed(RcSwitch(7), [2000] * 4 + [1000] * 4 + [2000] * 4) == [Edge.OFF, Edge.ON]
    assert feed(RcSwitch(7), [1000] * 4 + [1500] * 9 + [1000] * 4) == []  # the middle keeps the position
    assert feed(RcSwitch(7), [1000] * 4 + [0] * 9 + [65535] * 9) == []  # no pulse is no position


def test_a_channel_that_the_receiver_does_not_have_is_never_on() -> None:
    switch = RcSwitch(12)
    assert all(switch.update((2000,) * 8, k * STEADY_NS) is None for k in range(10)) and switch.position is None


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(1, 300)), max_size=60))
def test_edges_alternate_and_each_has_been_steady(frames: list[tuple[int, int]]) -> None:
    switch, now, edges, history = RcSwitch(1), 0, [], []
    for width, wait_ms in frames:
        now += wait_ms * 1_000_000
        history.append((now, width))
        edge = switch.update((width,), now)
        if edge is not None:
            wanted = (lambda w: 1700 <= w <= 2200) if edge is Edge.ON else (lambda w: 800 <= w <= 1300)
            recent = [w for t, w in history if now - t <= STEADY_NS]
            assert all(map(wanted, recent)) and wanted(width)
            edges.append(edge)
    assert all(a is not b for a, b in itertools.pairwise(edges))
