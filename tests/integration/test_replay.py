"""Replay: from true states it is the simulator itself, and each cause of a gap shows where it should."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim2sky.analysis.flights import load_flights
from sim2sky.analysis.rehearsal import rehearse
from sim2sky.analysis.replay import CHANNELS, Model, Replayer, one_airframe, replay_errors
from sim2sky.analysis.wind import estimate_wind, path_angle
from sim2sky.analysis.windows import LONGEST_DELAY_S, cut_windows
from sim2sky.config import EnvironmentSettings
from sim2sky.environments.airframes import AIRFRAMES, airframe
from sim2sky.environments.disturbances import draw_scenario
from sim2sky.environments.jsbsim_plant import FT, Air, InitialState, JsbsimPlant, PlantParameters
from sim2sky.environments.replay_plant import OUTPUTS, ReplayPlant, density_ratio
from sim2sky.errors import ConfigError, FlightLogError, NotSupportedError
from sim2sky.runtime.recorder import state_row
from sim2sky.runtime.state import Command, Sample
from sim2sky.telemetry.flight_log import EpisodeData, FlightLogWriter, LogMetadata

QUIET = dict.fromkeys(
    ("attitude_rad", "heading_rad", "rate_radps", "airspeed_mps", "altitude_m", "climb_rate_mps"), 0.0
)
ODD = PlantParameters(
    mass_offset_kg=0.2,
    cg_offset_m=0.01,
    inertia_scale=1.1,
    coefficient_scale={"Clda": 0.9, "Cma": 1.2},
    thrust_scale=0.9,
    actuator_bandwidth_scale=0.5,
    elevator_offset=0.03,
    command_scale={"aileron": 1.1},
    command_offset={"rudder": -0.05},
)


def settings(*, noise=True, wind=4.0, turbulence=0.0, delay=0.0, duration=20.0, aircraft="ultrastick25e", **random):
    disturbances = {
        "wind_mps": (wind, wind), "turbulence_w20_mps": (turbulence, turbulence), "action_delay_s": (delay, delay),
        **({} if noise else {"sensors": QUIET}),
    }  # fmt: skip
    return EnvironmentSettings.model_validate(
        {
            "aircraft": aircraft, "task": {"duration_s": duration}, "disturbances": disturbances,
            "randomization": random,
        }
    )  # fmt: skip


def shake(command, time_s):
    """Small sines on all channels: something to learn from."""
    wave = [0.1 * math.sin((3.0 + i) * time_s + i) for i in range(4)]
    return Command(*np.clip(np.array(command) + wave, [-1.0, -1.0, -1.0, 0.0], 1.0).tolist())


def flown_truth(name, parameters, seconds=3.0, size=0.1):
    """A plant flown by random commands in wind: commands per step, true states and outputs per tick of 6 steps."""
    a = airframe(name)
    plant = JsbsimPlant(a, 120.0)
    start = InitialState(airspeed_mps=a.cruise_airspeed_mps, pitch_rad=a.trim_alpha_rad, alpha_rad=a.trim_alpha_rad)
    plant.reset(start, parameters, Air(3.0, -4.0), a.trim, 1)
    rng = np.random.default_rng(0)
    ticks = round(20 * seconds)
    commands = np.repeat(np.array(a.trim) + rng.normal(0.0, size, (ticks, 4)), 6, axis=0)
    commands = np.clip(commands, [-1.0, -1.0, -1.0, 0.0], 1.0)
    states, outputs = [], []
    for step, command in enumerate(commands):
        if step % 6 == 0:
            s = plant.sample(0)
            air = [plant.get("velocities/vt-fps") * FT, plant.get("aero/alpha-rad"), plant.get("aero/beta-rad")]
            attitude = [s.roll_rad, s.pitch_rad, s.yaw_rad, s.p_radps, s.q_radps, s.r_radps]
            states.append([*air, *attitude, s.altitude_m])
            through_air = [s.north_mps - 3.0, s.east_mps + 4.0, s.climb_rate_mps]
            outputs.append([*attitude, s.airspeed_mps, s.altitude_m, *through_air])
        plant.command(Command(*command))
        plant.run(1)
    return commands, np.array(states), np.array(outputs)


# The plant ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AIRFRAMES)
def test_from_a_true_state_the_plant_goes_on_as_the_aircraft_did(name):
    commands, states, outputs = flown_truth(name, ODD, size=0.05)
    plant = ReplayPlant(airframe(name), 120.0)
    plant.become(ODD)
    at = np.arange(22, 40, 4)
    warm = np.stack([commands[6 * k - 120 : 6 * k] for k in at])
    ahead = np.stack([commands[6 * k : 6 * k + 120] for k in at])
    flown = plant.fly(states[at], warm, ahead, 6)
    error = flown - np.stack([outputs[k : k + 21] for k in at])
    error[:, :, 2] = (error[:, :, 2] + np.pi) % (2 * np.pi) - np.pi
    largest = dict(zip(OUTPUTS, np.abs(error).max(axis=(0, 1)), strict=True))
    assert max(largest[c] for c in ("roll_rad", "pitch_rad", "yaw_rad")) < 1e-3, largest
    assert max(largest[c] for c in ("p_radps", "q_radps", "r_radps")) < 3e-3, largest
    assert max(largest[c] for c in ("airspeed_mps", "altitude_m", "north_mps", "east_mps", "climb_rate_mps")) < 5e-3


def test_what_was_flown_before_leaves_no_trace():
    commands, states, _ = flown_truth("ultrastick25e", PlantParameters())
    plant = ReplayPlant(airframe("ultrastick25e"), 120.0)
    one = (states[30:31], commands[None, 60:180], commands[None, 180:300], 6)
    first = plant.fly(*one)
    plant.become(ODD)
    other = plant.fly(*one)
    plant.become(PlantParameters())
    again = plant.fly(*one)
    assert np.abs(other - first).max() > 0.05
    np.testing.assert_allclose(again, first, atol=2e-3)


def test_actuators_start_where_the_commands_before_have_moved_them():
    """The wrong past makes a wrong future: a warm-up that was ignored would not show this."""
    commands, states, outputs = flown_truth("ultrastick25e", PlantParameters(), size=0.2)
    plant = ReplayPlant(airframe("ultrastick25e"), 120.0)
    right = plant.fly(states[30:31], commands[None, 60:180], commands[None, 180:300], 6)
    wrong = plant.fly(states[30:31], -commands[None, 60:180], commands[None, 180:300], 6)
    rates = slice(3, 6)
    error = [np.abs(x[0, 1, rates] - outputs[31, rates]).max() for x in (right, wrong)]
    assert error[0] < 0.1 * error[1]


def test_a_start_that_jsbsim_refuses_is_lost_and_no_other():
    commands, states, _ = flown_truth("ultrastick25e", PlantParameters())
    plant = ReplayPlant(airframe("ultrastick25e"), 120.0)
    plant.become(ODD)
    starts = states[[30, 30, 30]].copy()
    starts[1, 0] = math.nan
    part = (np.stack([commands[60:180]] * 3), np.stack([commands[180:300]] * 3), 6)
    flown = plant.fly(starts, *part)
    assert np.isfinite(flown[[0, 2]]).all()
    np.testing.assert_allclose(flown[2], flown[0], atol=2e-3)
    assert not np.isfinite(flown[1, 1:]).any()


def test_the_reset_of_the_plant_is_as_it_was():
    """`JsbsimPlant` itself is bit for bit the same after a replay plant has been made of its class."""
    before = flown_truth("ultrastick25e", ODD, seconds=1.0)
    ReplayPlant(airframe("ultrastick25e"), 120.0).become(PlantParameters())
    after = flown_truth("ultrastick25e", ODD, seconds=1.0)
    for one, other in zip(before, after, strict=True):
        assert (one == other).all()


# Windows --------------------------------------------------------------------------------------------------------------


def test_a_delay_of_whole_physics_steps_shifts_the_commands():
    flight = rehearse(settings(duration=6.0), 1, excite=shake)
    windows = cut_windows([flight], 1.0)
    now_warm, now = windows.effective_commands(0.0, 120.0)
    late_warm, late = windows.effective_commands(4 / 120, 120.0)
    everything, shifted = np.concatenate([now_warm, now], axis=1), np.concatenate([late_warm, late], axis=1)
    np.testing.assert_allclose(shifted[:, 4:], everything[:, :-4], atol=1e-12)
    assert (now[:, 0] == windows.controls[:, windows.before]).all()


def test_the_commands_are_continuous_in_the_delay():
    windows = cut_windows([rehearse(settings(duration=6.0), 1, excite=shake)], 1.0)
    delays = np.linspace(0.0, 0.1, 41)
    flown = np.array([windows.effective_commands(d, 120.0)[1] for d in delays])
    change = np.abs(np.diff(flown, axis=0)).max(axis=(1, 2, 3))
    biggest_jump = np.abs(np.diff(windows.controls, axis=1)).max()
    assert change.max() < 0.5 * biggest_jump
    # the mean command over a step is what is kept: the integral moves by delay x jump
    shift = flown[0].sum(axis=1) - flown[7].sum(axis=1)
    begin, end = windows.controls[:, windows.before - 1], windows.controls[:, -1]
    np.testing.assert_allclose(shift, (end - begin) * delays[7] * 120.0, atol=1e-9)


@pytest.mark.parametrize("delay", [-0.01, LONGEST_DELAY_S + 0.01, math.nan])
def test_a_delay_beyond_what_was_cut_is_refused(delay):
    windows = cut_windows([rehearse(settings(duration=6.0), 1)], 1.0)
    with pytest.raises(ConfigError, match="cannot be replayed"):
        windows.effective_commands(delay, 120.0)


def test_windows_step_over_gaps_and_unknown_values():
    flight = rehearse(settings(duration=10.0), 1)
    whole = cut_windows([flight], 1.0)
    airspeed, time_s = flight.airspeed_mps.copy(), flight.time_s.copy()
    airspeed[65] = math.nan
    time_s[130:] += 0.2
    holed = cut_windows([replace(flight, airspeed_mps=airspeed, time_s=time_s)], 1.0)
    lost = sorted(set(whole.first.tolist()) - set(holed.first.tolist()))
    assert all(f - 6 <= 65 <= f + 20 or f - 6 <= 130 <= f + 20 for f in lost)
    assert len(lost) >= 2
    assert np.isfinite(holed.measured).all()


def test_yaw_does_not_jump_within_a_window():
    flight = rehearse(settings(duration=10.0), 1)
    turning = replace(flight, yaw_rad=(np.linspace(0.0, 12.0, len(flight)) + np.pi) % (2 * np.pi) - np.pi)
    assert np.abs(np.diff(cut_windows([turning], 2.0).measured[:, :, 2], axis=1)).max() < 0.1


def test_flights_without_commands_or_of_two_rates_are_refused():
    flight = rehearse(settings(duration=6.0), 1)
    with pytest.raises(NotSupportedError, match="commands and states"):
        cut_windows([replace(flight, controls=np.full_like(flight.controls, np.nan))], 1.0)
    with pytest.raises(ConfigError, match="2 sampling rates"):
        cut_windows([flight, replace(flight, rate_hz=50.0)], 1.0)
    with pytest.raises(ConfigError, match="0 sampling rates"):
        cut_windows([], 1.0)
    odd = replace(flight, rate_hz=21.0, time_s=np.arange(len(flight)) / 21.0)
    with pytest.raises(NotSupportedError, match="multiple"):
        Replayer("ultrastick25e").predict(cut_windows([odd], 1.0), Model())


# Errors by horizon ----------------------------------------------------------------------------------------------------


def test_without_noise_the_right_model_has_no_error_and_the_wrong_delay_has():
    flight = rehearse(settings(noise=False, delay=0.0625), 3, excite=shake)
    right = replay_errors([flight], Model(action_delay_s=0.0625 // (1 / 120) / 120))
    wrong = replay_errors([flight], Model())
    assert [e.horizon_s for e in right] == [0.1, 0.5, 1.0, 5.0]
    for good, bad in zip(right, wrong, strict=True):
        assert good.lost == 0
        assert good.windows > 2
        assert set(good.rms) == set(CHANNELS)
        # What is left is the guess of angle of attack and sideslip from the path.
        assert good.rms["roll_rad"] < 0.2 * bad.rms["roll_rad"]
        assert good.rms["q_radps"] < 0.2 * bad.rms["q_radps"]


@pytest.mark.parametrize(
    ("random", "channel"),
    [
        ({"thrust_scale": (0.8, 0.8)}, "airspeed_mps"),
        ({"coefficient_scales": {"Clda": (0.8, 0.8)}}, "p_radps"),
        ({"coefficient_scales": {"Cmde": (0.8, 0.8)}}, "q_radps"),
        ({"command_offset": {"rudder": (0.1, 0.1)}}, "r_radps"),
    ],
)
def test_each_cause_shows_in_its_channel(random, channel):
    """The nominal model is worse than the true one, most of all where the cause acts."""
    env = settings(noise=False, **random)
    flight = rehearse(env, 3, excite=shake)
    true, nominal = (replay_errors([flight], model, (1.0,))[0].rms for model in (Model.of(env), Model()))
    assert nominal[channel] > 2.0 * true[channel]


def test_a_sensor_bias_is_part_of_the_model():
    offsets = {"airspeed_mps": (2.0, 2.0), "q_radps": (0.1, 0.1)}
    env = settings(noise=False)
    sensors = env.disturbances.sensors.model_copy(update={"offsets": offsets})
    env = env.model_copy(update={"disturbances": env.disturbances.model_copy(update={"sensors": sensors})})
    flight = rehearse(env, 3, excite=shake)
    biased, ignored = (replay_errors([flight], model, (1.0,))[0].rms for model in (Model.of(env), Model()))
    assert Model.of(env).sensor_bias == {"airspeed_mps": 2.0, "q_radps": 0.1}
    assert biased["q_radps"] < 0.3 * ignored["q_radps"]
    assert biased["pitch_rad"] < 0.3 * ignored["pitch_rad"]


def test_errors_are_kept_by_flight_and_short_flights_have_no_long_horizon():
    env = settings(noise=False, duration=6.0)
    short = rehearse(env.model_copy(update={"task": env.task.model_copy(update={"duration_s": 5.0})}), 2)
    flights = [rehearse(env, 1), short]
    by_horizon = {e.horizon_s: e for e in replay_errors(flights, Model())}
    assert by_horizon[1.0].per_flight.shape == (2, len(CHANNELS))
    assert np.isfinite(by_horizon[1.0].per_flight).all()
    assert np.isnan(by_horizon[5.0].per_flight[1]).all()
    assert [e.horizon_s for e in replay_errors([short], Model())] == [0.1, 0.5, 1.0]


def test_which_aircraft_it_is_must_be_known_and_one():
    flight = rehearse(settings(duration=6.0), 1)
    unknown = replace(flight, airframe="")
    assert one_airframe([flight, unknown]) == "ultrastick25e"
    assert one_airframe([unknown], "aerosonde") == "aerosonde"
    with pytest.raises(ConfigError, match="do not say"):
        one_airframe([unknown])
    with pytest.raises(ConfigError, match="not of 'aerosonde'"):
        one_airframe([flight], "aerosonde")
    with pytest.raises(ConfigError, match="several"):
        one_airframe([flight, replace(flight, airframe="aerosonde")])
    with pytest.raises(ConfigError, match="no flights"):
        one_airframe([])
    with pytest.raises(ConfigError, match="unknown aircraft"):
        Replayer("concorde")


# Wind -----------------------------------------------------------------------------------------------------------------


def test_the_wind_lies_within_its_standard_errors():
    z = []
    for seed in range(8):
        env = settings(wind=5.0, turbulence=3.0, duration=40.0)
        flight = rehearse(env, seed)
        true = draw_scenario(env, airframe("ultrastick25e"), seed).air
        wind = estimate_wind(flight)
        z += [(wind.north_mps - true.wind_north_mps) / wind.north_std_mps,
              (wind.east_mps - true.wind_east_mps) / wind.east_std_mps]  # fmt: skip
        assert 0.05 < wind.north_std_mps < 1.5
    assert np.abs(z).max() < 4.0
    assert np.sqrt(np.mean(np.square(z))) < 2.0


def test_without_a_position_there_is_no_wind_but_a_replay():
    flight = rehearse(settings(noise=False), 3, excite=shake)
    lost = replace(flight, north_m=np.full(len(flight), np.nan), east_m=np.full(len(flight), np.nan))
    with pytest.raises(NotSupportedError, match="position"):
        estimate_wind(lost)
    (error,) = replay_errors([lost], Model(), (1.0,))
    assert error.rms["p_radps"] < 0.2


def test_path_angle_without_a_climb_rate_comes_from_the_altitude():
    flight = rehearse(settings(noise=False), 3)
    known = path_angle(flight)
    guessed = path_angle(replace(flight, climb_rate_mps=np.full(len(flight), np.nan)))
    assert np.abs(known[10:-10] - guessed[10:-10]).max() < 0.03


def test_density_ratio_is_that_of_the_standard_atmosphere():
    assert density_ratio(0.0) == pytest.approx(1.0)
    assert density_ratio(1000.0) == pytest.approx(0.9075, abs=2e-4)


# Logs -----------------------------------------------------------------------------------------------------------------


def write_log(path: Path, flight, *, with_climb=True, **metadata) -> Path:
    n = len(flight)
    states = np.array([
        state_row(
            Sample(0, *(float(getattr(flight, c)[i]) for c in CHANNELS), 0.0, flight.north_m[i], flight.east_m[i]),
            flight.time_s[i],
        )
        for i in range(n)
    ])  # fmt: skip
    names = ("climb_rate_mps",) if with_climb else ("other",)
    arrays = {
        "time_s": flight.time_s, "states": states, "observations": flight.climb_rate_mps[:, None].astype(np.float32),
        "actions": flight.controls.astype(np.float32), "controls": flight.controls, "setpoints": flight.setpoints,
        "guard": np.zeros((n, 2), np.int64),
    }  # fmt: skip
    columns = {"observations": names, "actions": ("aileron", "elevator", "rudder", "throttle")}
    meta = LogMetadata(**{"source": "virtual", "rate_hz": 20.0, "config": {"vehicle": "ultrastick25e"}, **metadata})
    with FlightLogWriter(path, meta) as writer:
        writer.write(EpisodeData(arrays, success=True, termination="completed", seed=1, columns=columns))
    return path


def test_a_log_becomes_the_flight_that_was_written(tmp_path):
    flight = rehearse(settings(duration=5.0), 1)
    (loaded,) = load_flights(write_log(tmp_path / "real.h5", flight))
    assert (loaded.name, loaded.airframe, loaded.source) == ("real/episode_0000", "ultrastick25e", "virtual")
    for field in (*CHANNELS, "time_s", "north_m", "east_m", "controls", "setpoints", "mode"):
        np.testing.assert_allclose(getattr(loaded, field), getattr(flight, field), atol=1e-6, err_msg=field)
    np.testing.assert_allclose(loaded.climb_rate_mps, flight.climb_rate_mps, atol=1e-5)


def test_what_a_log_does_not_say_is_nan_or_empty(tmp_path):
    flight = rehearse(settings(duration=5.0), 1)
    path = write_log(tmp_path / "real.h5", flight, with_climb=False, rate_hz=0.0, config={})
    (loaded,) = load_flights(path)
    assert loaded.airframe == ""
    assert loaded.rate_hz == pytest.approx(20.0)
    assert np.isnan(loaded.climb_rate_mps).all()


def test_a_log_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"not a log")
    with pytest.raises(FlightLogError):
        load_flights(tmp_path / "x.h5")
