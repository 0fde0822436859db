"""The mapping file that says what the columns of a folder of CSV files are, for `sim2sky log import FOLDER`.

source: real
vehicle: fixed wing
always: [armed, airborne]
files:
  - file: mavros-imu-data.csv
    time: "%time"
    time_unit: ns
    axes: enu_flu
    quaternion: [field.orientation.w, field.orientation.x, field.orientation.y, field.orientation.z]
    channels:
      p: field.angular_velocity.x
      q: field.angular_velocity.y
  - file: mavros-rc-out.csv
    time: "%time"
    time_unit: ns
    channels:
      aileron: {column: field.channels0, scale: 0.0025, offset: -3.75}
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sim2sky.config.loader import Settings

__all__ = ["AXES", "CsvColumn", "CsvFile", "LogMapping"]

ChannelName = Literal[
    "roll", "pitch", "yaw", "p", "q", "r", "north", "east", "altitude", "v_north", "v_east", "v_down", "airspeed",
    "aileron", "elevator", "rudder", "throttle", "set_altitude", "set_airspeed", "set_heading", "set_roll", "set_pitch",
    "set_p", "set_q", "set_r", "armed", "airborne", "engaged", "mode",
]  # fmt: skip
AXES = ("ned_frd", "enu_flu")
Quaternion = tuple[str, str, str, str]


class CsvColumn(Settings):
    """One column: the channel is `scale` times the column plus `offset`, in the flight log's unit (SI, radians)."""

    column: str
    scale: float = 1.0
    offset: float = 0.0


def _column(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


class CsvFile(Settings):
    """One CSV file with a header line.

    With `axes: enu_flu` (ROS, MAVROS) attitude, heading and body rates are turned: the quaternions, roll, pitch, yaw,
    p, q, r and their setpoints are those of forward, left, up against east, north, up.
    """

    file: str = Field(description="name within the folder")
    time: str = Field(default="time", description="column of the time")
    time_unit: Literal["s", "ms", "us", "ns"] = "s"
    axes: Literal["ned_frd", "enu_flu"] = "ned_frd"
    quaternion: Quaternion | None = Field(default=None, description="columns w, x, y, z of the attitude")
    set_quaternion: Quaternion | None = Field(default=None, description="columns w, x, y, z of its setpoint")
    channels: dict[ChannelName, Annotated[CsvColumn, BeforeValidator(_column)]] = Field(default_factory=dict)


class LogMapping(Settings):
    """What a folder of CSV files holds."""

    source: Literal["real", "sim"] = Field(description="where it was flown: a CSV file does not say")
    vehicle: str = Field(default="", description="kind of aircraft")
    firmware: str = Field(default="", description="what flew it")
    always: tuple[Literal["armed", "airborne"], ...] = Field(
        default=(), description="holds all the time, where no column says when"
    )
    files: tuple[CsvFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_channel_once(self) -> Self:
        names = [name for f in self.files for name in f.channels]
        names += [name for f in self.files if f.quaternion for name in ("roll", "pitch", "yaw")]
        names += [name for f in self.files if f.set_quaternion for name in ("set_roll", "set_pitch")]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} given twice")
        both = sorted(set(self.always) & set(names))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be a column and always on")
        return self
