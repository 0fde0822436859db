"""Before a policy is engaged: each thing that speaks against it is said, and nothing is where nothing does."""

from __future__ import annotations

import math

import pytest
from tests.flight_support import NAN, sample

from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.safety import SafetyMonitor
from sim2sky.runtime.state import Command, Sample, Setpoint

MS = 1_000_000
BOX = ((60.0, -900.0), (60.0, 900.0), (-60.0, 900.0), (-60.0, -900.0))
NOTCHED = ((400.0, -400.0), (400.0, 400.0), (-400.0, 400.0), (-150.0, 0.0), (-400.0, -400.0))


class Law:
    def reset(self) -> None: ...

    def command(self, sample: Sample, setpoint: Setpoint) -> Command:
        return Command(0.0, 0.0, 0.0, 0.5)


def problems(
    s: Sample,
    *,
    now_ms: int = 0,
    wind: tuple[float, float] | None = (2.0, 0.0),
    battery_v: float = NAN,
    **limits: object,
) -> list[str]:
    values = {"battery_min_voltage": 10.5, "airspeed_min_mps": 11.0, "airspeed_max_mps": 30.0, **limits}
    monitor = SafetyMonitor(SafetyLimits.from_json(values), Law(), 0.05, surface_limit_rad=(0.4,) * 3)
    return monitor.engagement_problems(s, now_ms * MS, wind=wind, battery_v=battery_v)


def test_nothing_speaks_against_level_flight_over_home() -> None:
    assert problems(sample(), battery_v=12.0) == []
    assert problems(sample(), wind=None) == []  # unknown wind: the strongest from every side, and there is room


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"s": sample(q_radps=NAN)}, "no numbers"),
        ({"s": sample(), "now_ms": 900}, "900 ms old, allowed are 200"),
        ({"s": sample(north_m=NAN)}, "no position"),
        ({"s": sample(roll_rad=1.2)}, "bank 69"),
        ({"s": sample(altitude_m=25.0)}, "floor of 30 m"),
        ({"s": sample(altitude_m=495.0)}, "ceiling of 500 m"),
        ({"s": sample(airspeed_mps=10.0)}, "airspeed 10.0 m/s is below"),
        ({"s": sample(airspeed_mps=31.0)}, "airspeed 31.0 m/s is above"),
        ({"s": sample(climb_rate_mps=-16.0), "sink_max_mps": 15.0}, "sinks faster"),
        ({"s": sample(north_m=460.0)}, "could not turn before it: it is 40 m inside"),
        ({"s": sample(north_m=560.0)}, "outside the fence"),
        ({"s": sample(), "battery_v": 10.0}, "battery has 10.0 V"),
        ({"s": sample(), "wind": (15.0, 0.0)}, "too much for an airspeed of 18.0"),
        ({"s": sample(), "geofence_polygons": [BOX]}, "no room to turn"),
        ({"s": sample(), "geofence_polygons": [BOX]}, "too near for a circle"),
        ({"s": sample(north_m=-180.0), "geofence_polygons": [NOTCHED]}, "outside the fence"),
        ({"s": sample(airspeed_mps=0.0), "airspeed_min_mps": 0.0}, "engage it in flight"),
    ],
)
def test_what_speaks_against_it_is_said(arguments: dict[str, object], said: str) -> None:
    found = problems(**arguments)  # type: ignore[arg-type]
    assert any(said in text for text in found), found


def test_the_straight_way_home_must_stay_inside() -> None:
    found = problems(sample(north_m=-380.0, east_m=30.0), geofence_polygons=[NOTCHED])
    assert any("way home crosses the fence" in text for text in found), found


def test_an_unusable_estimate_is_judged_no_further() -> None:
    assert len(problems(sample(yaw_rad=math.inf, altitude_m=0.0, north_m=900.0))) == 1


def test_a_disarmed_aircraft_is_not_engaged() -> None:
    monitor = SafetyMonitor(SafetyLimits(), Law(), 0.05, surface_limit_rad=(0.4,) * 3)
    monitor.kill()
    assert "kill switch" in monitor.engagement_problems(sample(), 0)[0]
    # Asking changes nothing: the monitor is as it was.
    monitor.disarm()
    monitor.arm()
    assert monitor.engagement_problems(sample(), 0, wind=(0.0, 0.0)) == [] and len(monitor.events) == 0


def test_without_a_fence_position_and_room_are_nobodys_business() -> None:
    assert problems(sample(north_m=9000.0), geofence_enabled=False) == []
