"""Attitude and position in the forms that MAVLink sends them: what is received is read by the same operations as in
firmware/core/geodetic.c. Standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim2sky.runtime import real

__all__ = ["HOME", "Geodetic", "euler_to_quaternion", "quaternion_to_euler"]


@dataclass(frozen=True, slots=True)
class Geodetic:
    """Home, and metres from it to degrees and back: a plane tangent to the WGS-84 ellipsoid.

    Radii of curvature after Farrell, *Aided Navigation*, eq. 2.6-2.7.
    """

    latitude_deg: float
    longitude_deg: float
    altitude_m: float

    @property
    def _metres_per_degree(self) -> tuple[float, float]:
        semi_major, eccentricity2 = 6378137.0, 6.69437999014e-3
        latitude = math.radians(self.latitude_deg)
        sine = real.sin(latitude)
        w = math.sqrt(1.0 - eccentricity2 * (sine * sine))
        meridian, normal = semi_major * (1.0 - eccentricity2) / (w * w * w), semi_major / w
        return math.radians(meridian), math.radians(normal * real.cos(latitude))

    def to_degrees_e7(self, north_m: float, east_m: float) -> tuple[int, int]:
        """Latitude and longitude in 1e-7 degrees."""
        per_north, per_east = self._metres_per_degree
        return (
            round((self.latitude_deg + north_m / per_north) * 1e7),
            round((self.longitude_deg + east_m / per_east) * 1e7),
        )

    def to_metres(self, latitude_e7: int, longitude_e7: int) -> tuple[float, float]:
        """North and east of home, m."""
        per_north, per_east = self._metres_per_degree
        return (
            (latitude_e7 * 1e-7 - self.latitude_deg) * per_north,
            (longitude_e7 * 1e-7 - self.longitude_deg) * per_east,
        )


HOME = Geodetic(47.397742, 8.545594, 488.0)


def euler_to_quaternion(roll: float, pitch: float, yaw: float) -> list[float]:
    """Rotation from NED to body as (w, x, y, z); 3-2-1 Euler angles, rad."""
    cr, sr = math.cos(roll / 2), math.sin(roll / 2)
    cp, sp = math.cos(pitch / 2), math.sin(pitch / 2)
    cy, sy = math.cos(yaw / 2), math.sin(yaw / 2)
    return [
        cr * cp * cy + sr * sp * sy,
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
    ]


def quaternion_to_euler(q: list[float]) -> tuple[float, float, float]:
    """Inverse of `euler_to_quaternion`: roll, yaw in [-pi, pi], pitch in [-pi/2, pi/2]; NaN where q is no rotation."""
    w, x, y, z = q
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    if not (math.isfinite(norm) and norm > 0.5):
        return math.nan, math.nan, math.nan
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    return (
        real.atan2(2.0 * (w * x + y * z), 1.0 - 2.0 * (x * x + y * y)),
        real.asin(min(max(2.0 * (w * y - z * x), -1.0), 1.0)),
        real.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z)),
    )
