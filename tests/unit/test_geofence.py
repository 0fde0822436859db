"""Circle and polygons: signed distance, and polygons that are no fence around home."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.errors import ConfigError
from sim2sky.runtime.geofence import Fence, polygon_problem
from sim2sky.runtime.limits import SafetyLimits

SQUARE = ((100.0, -100.0), (100.0, 100.0), (-100.0, 100.0), (-100.0, -100.0))
NOTCHED = ((200.0, -200.0), (200.0, 200.0), (-200.0, 200.0), (-30.0, 0.0), (-200.0, -200.0))
C_SHAPE = (
    (50.0, -50.0), (50.0, 300.0), (-300.0, 300.0), (-300.0, -50.0), (-250.0, -50.0), (-250.0, 250.0), (-50.0, 250.0),
    (-50.0, -50.0),
)  # fmt: skip
coordinate = st.floats(-400.0, 400.0)


@pytest.mark.parametrize(
    ("north", "east", "expected"),
    [(0.0, 0.0, 100.0), (90.0, 0.0, 10.0), (110.0, 0.0, -10.0), (130.0, 140.0, -50.0), (-100.0, 0.0, 0.0)],
)
def test_the_distance_to_a_square(north: float, east: float, expected: float) -> None:
    for corners in (SQUARE, SQUARE[::-1]):  # either way round
        assert Fence(math.inf, (corners,)).margin(north, east) == pytest.approx(expected)


def test_inside_means_inside_circle_and_every_polygon() -> None:
    narrow = ((20.0, -500.0), (20.0, 500.0), (-20.0, 500.0), (-20.0, -500.0))
    fence = Fence(80.0, (SQUARE, narrow))
    assert fence.margin(0.0, 0.0) == pytest.approx(20.0)
    assert fence.margin(0.0, 70.0) == pytest.approx(10.0)
    assert fence.margin(0.0, 90.0) == pytest.approx(-10.0)
    assert fence.margin(30.0, 0.0) == pytest.approx(-10.0)


def test_a_notch_is_outside() -> None:
    fence = Fence(math.inf, (NOTCHED,))
    assert fence.margin(-100.0, 0.0) < 0.0 < fence.margin(-100.0, 150.0)


@given(coordinate, coordinate, coordinate, coordinate)
def test_the_margin_changes_no_faster_than_the_aircraft_moves(a: float, b: float, c: float, d: float) -> None:
    fence = Fence(350.0, (NOTCHED, SQUARE))
    assert abs(fence.margin(a, b) - fence.margin(c, d)) <= math.dist((a, b), (c, d)) + 1e-9


@given(st.floats(0.0, 0.999), st.integers(0, 4), st.floats(0.0, 1.0))
def test_the_way_home_from_inside_an_accepted_polygon_stays_inside(share: float, edge: int, along: float) -> None:
    assert polygon_problem(NOTCHED) == ""
    (n0, e0), (n1, e1) = NOTCHED[edge], NOTCHED[(edge + 1) % 5]
    point = (n0 + along * (n1 - n0), e0 + along * (e1 - e0))
    assert Fence(math.inf, (NOTCHED,)).margin(share * point[0], share * point[1]) > -1e-9


@pytest.mark.parametrize(
    ("polygon", "problem"),
    [
        (SQUARE[:2], "has 2 corners"),
        ((SQUARE[0], SQUARE[0], *SQUARE[1:]), "two corners in one place"),
        ((SQUARE[0], SQUARE[2], SQUARE[1], SQUARE[3]), "crosses itself"),
        (tuple((n + 150.0, e) for n, e in SQUARE), "does not contain home"),
        (C_SHAPE, "the way home from there leaves the fence"),
    ],
)
def test_what_is_no_fence_around_home_is_refused(polygon: tuple[tuple[float, float], ...], problem: str) -> None:
    assert problem in polygon_problem(polygon)
    with pytest.raises(ConfigError, match="polygon 2 "):
        SafetyLimits(geofence_polygons=(SQUARE, polygon))


@pytest.mark.parametrize("value", [3, [[1, 2]], [[[1, 2, 3]]], [[["a", "b"]] * 3], [[[1, math.nan]] * 3], None])
def test_polygons_that_are_no_polygons_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="list of polygons"):
        SafetyLimits.from_json({"geofence_polygons": value})


def test_polygons_survive_json() -> None:
    limits = SafetyLimits(geofence_polygons=(SQUARE, NOTCHED))
    again = SafetyLimits.from_json(limits.to_json())
    assert again == limits and limits.to_json()["geofence_polygons"][0][0] == [100.0, -100.0]
