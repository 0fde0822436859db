"""Where the aircraft may be, seen from home: inside a circle and inside every polygon.

Signed distances, so that a caller can ask for a margin. Twin of firmware/core/fence.c. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sim2sky.runtime.real import hypot

__all__ = ["Fence", "Point", "polygon_problem"]

Point = tuple[float, float]
"""North and east of home, m."""


def _cross(o: Point, a: Point, b: Point) -> float:
    return (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0])


def _segments_cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether two segments have an inner point in common."""
    return _cross(a, b, c) * _cross(a, b, d) < 0.0 and _cross(c, d, a) * _cross(c, d, b) < 0.0


def polygon_problem(polygon: Sequence[Point]) -> str:
    """Why a polygon cannot be an inclusion fence around home; empty where it can.

    The way home from everywhere inside must stay inside: every corner must see home.
    """
    n = len(polygon)
    if n < 3:
        return f"has {n} corners, it needs at least 3"
    edges = [(polygon[i], polygon[(i + 1) % n]) for i in range(n)]
    for i, (a, b) in enumerate(edges):
        if math.dist(a, b) < 1e-3:
            return f"has two corners in one place, number {i + 1}"
        if any(_segments_cross(a, b, c, d) for c, d in edges[i + 1 :]):
            return "crosses itself"
    home = (0.0, 0.0)
    if Fence(math.inf, (tuple(polygon),)).margin(*home) <= 0.0:
        return "does not contain home"
    for i, corner in enumerate(polygon):
        if any(_segments_cross(home, corner, a, b) for a, b in edges):
            return f"lies between home and its own corner {i + 1}: the way home from there leaves the fence"
    return ""


class Fence:
    """A circle around home and inclusion polygons; inside means inside all of them.

    Args:
        radius_m: of the circle; infinite for none.
        polygons: corners in order, either way round; north and east of home, m.
    """

    def __init__(self, radius_m: float, polygons: Sequence[Sequence[Point]] = ()) -> None:
        self._radius = radius_m
        self._polygons: list[list[tuple[float, float, float, float, float]]] = []
        for polygon in polygons:
            edges: list[tuple[float, float, float, float, float]] = []
            for i, (n0, e0) in enumerate(polygon):
                n1, e1 = polygon[(i + 1) % len(polygon)]
                dn, de = n1 - n0, e1 - e0
                edges.append((n0, e0, dn, de, max(dn * dn + de * de, 1e-9)))
            self._polygons.append(edges)

    def margin(self, north_m: float, east_m: float) -> float:
        """Distance to the nearest border, m; negative outside."""
        smallest = self._radius - hypot(north_m, east_m)
        if not self._polygons:
            return smallest
        for edges in self._polygons:
            nearest, inside = math.inf, False
            for n0, e0, dn, de, length2 in edges:
                pn, pe = north_m - n0, east_m - e0
                along = (pn * dn + pe * de) / length2
                along = 0.0 if along < 0.0 else min(along, 1.0)
                rn, re = pn - along * dn, pe - along * de
                distance2 = rn * rn + re * re
                nearest = min(nearest, distance2)
                # Even-odd rule: count the edges that a ray to the east crosses.
                if (pn < 0.0) != (pn < dn) and pe < pn / dn * de:
                    inside = not inside
            signed = math.sqrt(nearest)
            signed = signed if inside else -signed
            smallest = min(smallest, signed)
        return smallest
