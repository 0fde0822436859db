"""Identification against aircraft whose truth is known, and against flights that tell nothing."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.integration.test_replay import write_log

from sim2sky import cli
from sim2sky.analysis.excitation_plan import Envelope, chirp, envelope_of, plan_excitation, reached
from sim2sky.analysis.identifiability import COLLINEAR, covariance_of, identifiability, moved
from sim2sky.analysis.identification import identify
from sim2sky.analysis.manoeuvres import AMPLITUDES, BANDS_HZ, BASE_S, advice_for, calm, multisine, predicted
from sim2sky.analysis.output_error import FIRST_GUST, FIRST_NOISE, Noise, OutputError
from sim2sky.analysis.parameters import LARGEST_INTERVAL, model_of, parameters_of
from sim2sky.analysis.rehearsal import level_start, rehearse
from sim2sky.analysis.replay import Replayer
from sim2sky.analysis.windows import CHANNELS, cut_windows
from sim2sky.config.environment import COEFFICIENTS, EnvironmentSettings
from sim2sky.config.loader import load_settings
from sim2sky.config.randomization import RandomizationPatch
from sim2sky.environments.aircraft_env import AircraftEnv
from sim2sky.environments.airframes import AIRFRAMES, airframe
from sim2sky.errors import EXIT_INCONCLUSIVE, EXIT_PASS, ConfigError, NotSupportedError
from sim2sky.runtime.excitation import Excitation

ULTRA = airframe("ultrastick25e")
TRUTH = {
    "action_delay_s": 11 / 120, "actuator_bandwidth_scale": 0.7, "thrust_scale": 0.85, "Clda": 0.8, "Clp": 1.15,
    "Cmde": 1.2, "Cmq": 0.85, "Cndr": 0.75, "Cnb": 1.2, "Cnr": 0.9,
}  # fmt: skip


def odd_aircraft(duration_s, *, turbulence=2.0):
    """The aircraft of `TRUTH`."""
    env = calm("ultrastick25e", duration_s, turbulence_w20_mps=turbulence)
    data = env.model_dump()
    fixed = {name: (value, value) for name, value in TRUTH.items()}
    data["disturbances"]["action_delay_s"] = fixed.pop("action_delay_s")
    scales = {name: fixed.pop(name) for name in list(fixed) if name in COEFFICIENTS}
    data["randomization"] |= {**fixed, "coefficient_scales": scales}
    return EnvironmentSettings.model_validate(data)


@pytest.fixture(scope="module")
def excited():
    env = odd_aircraft(32.0)
    plan = multisine("ultrastick25e", AMPLITUDES, 30.0)
    return rehearse(env, level_start(env, 5), excite=plan.add, name="excited")


@pytest.fixture(scope="module")
def quiet():
    env = calm("ultrastick25e", 15.0)
    return rehearse(env, level_start(env, 5), name="quiet")


@pytest.fixture(scope="module")
def found(excited):
    return identify([excited], known={"cg_offset_m": (0.0, 0.002)})


# The answer -----------------------------------------------------------------------------------------------------------


def test_an_excited_flight_gives_the_truth_within_its_intervals(found):
    estimates = {p.name: p for p in found.parameters}
    assert found.verdict == "identified"
    assert {"action_delay_s", "Clda", "Clp", "Cmde", "Cmq", "Cndr"} <= {p.name for p in found.identified}
    for p in found.identified:
        true = TRUTH.get(p.name, 0.0 if p.unit != "1" else 1.0)
        slack = 0.5 * (p.high - p.low)  # twice the interval: one flight, twenty parameters
        assert p.low - slack <= true <= p.high + slack, (p, true)
    inside = [p.low <= TRUTH.get(p.name, 0.0 if p.unit != "1" else 1.0) <= p.high for p in found.identified]
    assert np.mean(inside) > 0.75
    for name in ("Clda", "Cmde", "Cndr"):
        assert abs(estimates[name].estimate - TRUTH[name]) < 0.5 * abs(estimates[name].prior - TRUTH[name])


def test_what_is_identified_is_narrow_and_the_rest_stays_where_it_was(found):
    references = {p.name: p for p in parameters_of(ULTRA, 20.0, {"cg_offset_m": (0.0, 0.002)})}
    for p in found.parameters:
        if p.identifiable:
            assert 0.5 * (p.high - p.low) <= LARGEST_INTERVAL * references[p.name].reference * 1.001
            assert p.source == "flight"
            assert not p.advice
        else:
            assert p.estimate == p.prior
            assert p.advice
    assert {p.name for p in found.parameters if not p.identifiable} >= {"CDda", "CYp", "CLde"}
    assert next(p for p in found.parameters if p.name == "cg_offset_m").source == "given"


def test_the_identified_aircraft_replays_what_it_has_not_seen_better(found):
    assert found.held_out
    for before, after in zip(found.replay_before, found.replay_after, strict=True):
        assert after.lost == 0
        if before.horizon_s in {0.5, 1.0}:
            for channel in ("p_radps", "q_radps", "r_radps", "roll_rad"):
                assert after.rms[channel] < 0.7 * before.rms[channel], (before.horizon_s, channel)


def test_the_noise_is_found_too(found):
    assert found.noise["p_radps"] == pytest.approx(0.02, rel=0.4)
    assert found.noise["airspeed_mps"] == pytest.approx(0.3, rel=0.3)
    assert found.noise["altitude_m"] == pytest.approx(0.5, rel=0.3)


def test_a_quiet_flight_is_refused(quiet):
    found = identify([quiet])
    assert found.verdict == "not identifiable"
    assert not found.identified
    assert not any(v.identifiable for v in found.before_solving)
    assert all(p.estimate == p.prior for p in found.parameters)
    advice = {p.name: p.advice for p in found.parameters}
    assert "aileron multisine" in advice["Clda"]
    assert "elevator multisine" in advice["Cmde"]
    with pytest.raises(NotSupportedError, match="patch"):
        found.patch(EnvironmentSettings())


def test_the_same_flight_gives_the_same_answer(excited):
    short = excited.part(0, 160)
    one, other = identify([short]), identify([short])
    assert [p.estimate for p in one.parameters] == [p.estimate for p in other.parameters]
    assert json.dumps(one.to_json()) == json.dumps(other.to_json())


# The patch ------------------------------------------------------------------------------------------------------------


def _half_noise(disturbances):
    sensors = disturbances.sensors
    halved = {n: 0.5 * v for n, v in sensors.model_dump().items() if n not in ("noise_scale", "offsets")}
    return disturbances.model_copy(update={"sensors": sensors.model_copy(update=halved)})


def test_the_patch_has_the_intervals_and_can_be_taken_back(found):
    base = EnvironmentSettings.model_validate(
        {
            "randomization": {"coefficient_scale": (0.8, 1.2), "thrust_scale": (0.7, 1.1), "inertia_scale": (0.9, 1.1)},
            "disturbances": {"observation_delay_s": (0.0, 0.05)},
        }
    )
    patch = found.patch(base, written_by="a test")
    after = patch.apply(base)
    estimates = {p.name: p for p in found.parameters}
    low, high = after.randomization.coefficient_scales["Clda"]
    assert (low, high) == pytest.approx(found.fitted["Clda"], abs=1e-4)
    assert estimates["Clda"].low < (low + high) / 2.0 < estimates["Clda"].high
    assert "CDda" not in after.randomization.coefficient_scales
    assert after.randomization.coefficient_scale == (0.8, 1.2)
    assert after.randomization.inertia_scale == (0.9, 1.1)
    assert after.disturbances.observation_delay_s == (0.0, 0.0)
    assert after.disturbances.action_delay_s[0] < TRUTH["action_delay_s"] < after.disturbances.action_delay_s[1] + 0.01
    low, high = after.disturbances.sensors.noise_scale  # the flights have the default's noise, taken once
    assert 0.7 < low <= high < 1.4
    noisier = found.patch(base.model_copy(update={"disturbances": _half_noise(base.disturbances)})).disturbances
    assert noisier["sensors"]["noise_scale"] == pytest.approx([2.0 * low, 2.0 * high], rel=1e-3)
    assert patch.revert(after) == base
    with pytest.raises(ConfigError, match="aerosonde"):
        found.patch(EnvironmentSettings(aircraft="aerosonde"))


# The problem ----------------------------------------------------------------------------------------------------------


def test_the_jacobian_is_that_of_the_replay(excited):
    """A step along a column moves the prediction as the column says."""
    parameters = parameters_of(ULTRA, 20.0)
    windows = cut_windows([excited.part(0, 120)], 1.0)
    problem = OutputError(Replayer("ultrastick25e"), windows, parameters)
    point = problem.start()
    linear = problem.linearise(point)
    direction = np.array([0.01 * p.std for p in parameters])
    direction[[p.name for p in parameters].index("actuator_rate_scale")] = 0.0  # has kinks
    moved = problem.predict(point.values + direction, point.starts) - problem.predict(point.values, point.starts)
    expected = linear.by_value @ direction
    assert np.abs(moved - expected).max() < 0.2 * np.abs(expected).max()


def test_only_ratios_show():
    """More mass and all forces in proportion is the same flight: their columns are dependent."""
    env = calm("ultrastick25e", 12.0)
    flight = rehearse(env, level_start(env, 1), excite=multisine("ultrastick25e", AMPLITUDES, 10.0).add)
    parameters = parameters_of(ULTRA, 20.0)
    problem = OutputError(Replayer("ultrastick25e"), cut_windows([flight], 1.0), parameters)
    linear = problem.linearise(problem.start())
    names = [p.name for p in parameters]
    forces = [n for n in names if n.startswith(("CL", "CD", "CY"))] + ["thrust_scale"]
    by_mass = linear.by_value[:, :, names.index("mass_offset_kg")] * ULTRA.mass_kg
    by_forces = linear.by_value[:, :, [names.index(n) for n in forces]].sum(axis=2)
    assert np.abs(by_mass + by_forces).max() < 0.15 * np.abs(by_forces).max()


def test_noise_and_gusts_are_told_apart(excited):
    """White noise of twice the size is found as such and not as gusts."""
    rng = np.random.default_rng(0)
    windows = cut_windows([excited], 1.0)
    parameters = parameters_of(ULTRA, 20.0)
    problem = OutputError(Replayer("ultrastick25e"), windows, parameters)
    linear = problem.linearise(problem.start(), which=np.zeros(len(parameters), bool))
    sizes = 2.0 * FIRST_NOISE
    white = rng.normal(0.0, np.tile(sizes, windows.ticks + 1), (len(windows), problem.size))
    bumps = rng.normal(0.0, 0.05, (len(windows), linear.gusts.shape[1])) @ linear.gusts.T
    first = Noise(FIRST_NOISE, np.full(3, FIRST_GUST))
    calm_air = problem.estimate_noise(white, linear, first, rounds=40)
    gusty = problem.estimate_noise(white + bumps, linear, first, rounds=40)
    np.testing.assert_allclose(calm_air.sensors, sizes, rtol=0.2)
    assert (calm_air.gusts < 0.012).all()
    np.testing.assert_allclose(gusty.gusts, 0.05, rtol=0.3)


def test_identifiability_of_a_known_problem():
    parameters = parameters_of(ULTRA, 20.0)[:4]
    information = np.diag([1e6, 100.0, 4.0, 0.0])
    verdicts = identifiability(parameters, covariance_of(parameters, information), 1000)
    assert [v.identifiable for v in verdicts] == [True, True, False, False]
    assert verdicts[3].shrinkage == pytest.approx(1.0)
    assert verdicts[1].half_width == pytest.approx(1.96 / np.sqrt(100.0 + 0.3**-2), rel=0.01)
    # Two parameters of which only the sum shows: neither is identified, and each names the other.
    one = np.zeros((4, 4))
    one[2:, 2:] = [[1e6, 1e6 * 0.2 / 0.16], [1e6 * 0.2 / 0.16, 1e6 * (0.2 / 0.16) ** 2]]
    alike = identifiability(parameters, covariance_of(parameters, one), 1000)
    assert not alike[2].identifiable
    assert alike[2].collinear == (parameters[3].name,)
    assert COLLINEAR < 1.0


def test_a_narrow_prior_alone_identifies_nothing():
    parameters = parameters_of(ULTRA, 20.0, {"mass_offset_kg": (0.1, 0.001)})
    nothing = np.zeros((len(parameters), len(parameters)))
    verdicts = identifiability(parameters, covariance_of(parameters, nothing), 100)
    assert next(v for v in verdicts if v.name == "mass_offset_kg").relative < LARGEST_INTERVAL
    assert not any(v.identifiable for v in verdicts)


def test_a_channel_that_did_not_move_tells_nothing():
    parameters = parameters_of(ULTRA, 20.0)
    plenty = covariance_of(parameters, np.diag([1e8] * len(parameters)))
    verdicts = {v.name: v.identifiable for v in identifiability(parameters, plenty, 100, frozenset({"elevator"}))}
    assert verdicts["Cmde"] and verdicts["action_delay_s"] and not verdicts["Clda"] and not verdicts["thrust_scale"]
    assert not any(v.identifiable for v in identifiability(parameters, plenty, 100, frozenset()))


def test_noisy_gyroscopes_ask_for_more_movement(excited, quiet):
    windows = cut_windows([excited], 1.0)
    assert {"aileron", "elevator", "rudder"} <= moved(windows, 0.02)
    assert moved(windows, 0.02) == moved(windows, 0.03) >= moved(windows, 0.06)
    assert not moved(windows, 1.0)
    assert not moved(cut_windows([quiet], 1.0), 0.02)


def test_the_sandwich_is_wider_where_windows_disagree():
    parameters = parameters_of(ULTRA, 20.0)[:2]
    information = np.diag([1e4, 1e4])
    scores = np.random.default_rng(0).normal(0.0, 3.0 * 10.0, (100, 2))  # nine times what the noise model says
    plain, robust = covariance_of(parameters, information), covariance_of(parameters, information, scores)
    assert 2.0 < np.sqrt(robust[0, 0] / plain[0, 0]) < 4.0


@pytest.mark.parametrize(
    ("known", "problem"), [({"wings": (1.0, 0.1)}, "no parameter"), ({"thrust_scale": (1.0, 0.0)}, "above 0")]
)
def test_what_is_known_must_make_sense(known, problem):
    with pytest.raises(ConfigError, match=problem):
        parameters_of(ULTRA, 20.0, known)


def test_values_beyond_what_is_plausible_are_cut():
    parameters = parameters_of(ULTRA, 20.0)
    model = model_of(parameters, np.array([-5.0 for _ in parameters]))
    assert model.action_delay_s == 0.0
    assert model.parameters.coefficient_scale["Clda"] == 0.1
    assert set(model.parameters.command_offset) == {"aileron", "rudder"}


# Excitation plans -----------------------------------------------------------------------------------------------------


def test_multisines_of_the_channels_are_orthogonal_and_low():
    plan = multisine("ultrastick25e", AMPLITUDES, 60.0)
    waves = np.array([plan.at(t) for t in np.arange(10.0, 10.0 + 2 * BASE_S, 0.05)])
    covariance = waves.T @ waves / len(waves)
    rms = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(rms, [AMPLITUDES[c] / np.sqrt(2.0) for c in AMPLITUDES], rtol=0.02)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.02 * rms.min() ** 2
    assert (np.abs(waves).max(axis=0) / rms < 2.6).all()
    for sine in plan.sines:
        low, high = BANDS_HZ[sine.channel]
        assert low <= sine.from_hz <= high
    frequencies = [s.from_hz for s in plan.sines]
    assert len(set(frequencies)) == len(frequencies)


def test_a_chirp_moves_one_channel_after_another():
    plan = chirp("aerosonde", AMPLITUDES, 40.0)
    moving = np.array([np.abs(plan.at(t)) > 1e-9 for t in np.arange(1.0, 41.0, 0.05)])
    assert (moving.sum(axis=1) <= 1).all()
    assert moving.any(axis=0).all()


@pytest.mark.parametrize("name", AIRFRAMES)
def test_a_plan_stays_within_the_envelope_and_says_what_it_will_tell(name):
    plan = plan_excitation(name, 20.0)
    limits, e = envelope_of(airframe(name)), plan.reached
    assert e.roll_deg <= limits.roll_deg
    assert e.pitch_deg <= limits.pitch_deg
    assert e.load_factor <= limits.load_factor
    assert limits.airspeed_min_mps <= e.airspeed_min_mps < e.airspeed_max_mps <= limits.airspeed_max_mps
    assert plan.excitation.aircraft == name
    assert {"Clda", "Clp", "Cmde"} <= set(plan.excitation.predicted)
    assert plan.excitation.limits["roll_deg"] == limits.roll_deg
    json.dumps(plan.to_json())


def test_what_is_reached_is_measured_in_flight_terms():
    env = calm("ultrastick25e", 10.0)
    flight = rehearse(env, level_start(env, 1))
    level = reached([flight])
    assert level.load_factor == pytest.approx(1.0, abs=0.2)
    assert isinstance(level, Envelope)
    turning = replace(flight, roll_rad=np.full(len(flight), 1.0))
    assert reached([turning]).roll_deg == pytest.approx(57.3, abs=0.1)


def test_more_excitation_tells_more():
    small, large = (
        {v.name: v.half_width for v in predicted(multisine("ultrastick25e", {"aileron": a}, 10.0))} for a in (0.05, 0.3)
    )
    assert large["Clda"] < 0.85 * small["Clda"]
    assert large["Clp"] < 0.85 * small["Clp"]


@pytest.mark.parametrize(
    ("name", "channel"), [("Clda", "aileron"), ("Cmde", "elevator"), ("Cndr", "rudder"), ("CD0", "throttle")]
)
def test_the_advice_names_the_manoeuvre_that_moves_it(name, channel):
    parameter = next(p for p in parameters_of(ULTRA, 20.0) if p.name == name)
    assert f"{channel} multisine" in advice_for("ultrastick25e", parameter, ())


def test_a_plan_for_nothing_or_too_long_is_refused():
    with pytest.raises(ConfigError, match="unknown aircraft"):
        plan_excitation("concorde")
    with pytest.raises(ConfigError, match="excitation of"):
        plan_excitation("aerosonde", 5.0)


# Benchmark ------------------------------------------------------------------------------------------------------------


def test_the_benchmark_counts_what_it_says(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    benchmark = importlib.import_module("identification")
    tally = benchmark.run(1, 3, 20.0, 2.0)
    assert tally.quiet == tally.refused == 1
    assert set(tally.errors) == set(tally.inside) >= {"action_delay_s", "Clda"}
    assert np.mean([hit for hits in tally.inside.values() for hit in hits]) > 0.7
    assert "quiet flights refused: 1 of 1" in benchmark.report(tally)


# Commands -------------------------------------------------------------------------------------------------------------


def test_identify_writes_a_patch_that_the_environment_takes(tmp_path, excited, capsys):
    log = write_log(tmp_path / "real.h5", excited)
    patch = tmp_path / "patch.yaml"
    assert cli.run(["identify", str(log), "-o", str(patch), "--mass", "1.959", "--cg-offset", "0.0"]) == EXIT_PASS
    text = capsys.readouterr().out
    assert "identified: " in text and "Clda" in text and "replay error" in text and "given: measured otherwise" in text
    loaded = load_settings(patch, RandomizationPatch)
    assert loaded.aircraft == "ultrastick25e"
    low, high = AircraftEnv(randomization=patch).settings.randomization.coefficient_scales["Clda"]
    assert 0.6 < low < high < 1.0


def test_identify_refuses_quiet_flights_with_its_own_exit_code(tmp_path, quiet, capsys):
    log = write_log(tmp_path / "real.h5", quiet)
    patch = tmp_path / "patch.yaml"
    assert cli.run(["identify", str(log), "-o", str(patch), "--json"]) == EXIT_INCONCLUSIVE
    assert json.loads(capsys.readouterr().out)["verdict"] == "not identifiable"
    assert not patch.exists()


@pytest.mark.parametrize("arguments", [[], ["missing.h5"]])
def test_identify_without_a_log_is_misuse(arguments, capsys):
    assert cli.run(["identify", *arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_excite_writes_a_plan_that_flies(tmp_path, capsys):
    path = tmp_path / "plan.json"
    arguments = ["excite", "-o", str(path), "--aircraft", "ultrastick25e", "--duration", "15", "--kind", "chirp"]
    assert cli.run(arguments) == EXIT_PASS
    text = capsys.readouterr().out
    assert "it will tell" in text and "bank" in text
    plan = Excitation.load(path, aircraft="ultrastick25e")
    assert plan.duration_s == pytest.approx(16.0)
    assert np.abs(plan.at(3.0)).max() > 0.0
    assert len(CHANNELS) == 8
    assert cli.run(["excite", "-o", str(tmp_path / "no" / "plan.json"), "--aircraft", "ultrastick25e"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("where", ["missing/p.yaml", "."])
@pytest.mark.parametrize("command", [["identify", "no.h5"], ["excite", "--aircraft", "ultrastick25e"]])
def test_a_result_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, capsys, command, where):
    monkeypatch.chdir(tmp_path)
    assert cli.run([*command, "-o", where]) == 2
    assert f"cannot write {where}" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
