"""`NativeMonitor`: the simulator flies the C guard or the Python guard, and the logs are the same to the last bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from benchmarks import guard_mutants, guard_twin
from benchmarks.guard_twin import differences
from tests.flight_support import make_bundle, sample, settings

from sim2sky.agent.bundle import Bundle
from sim2sky.config import EnvironmentSettings
from sim2sky.environments.airframes import airframe
from sim2sky.environments.episode import fly_episode
from sim2sky.environments.vehicle import SimVehicle
from sim2sky.errors import ToolchainError
from sim2sky.hil import native_guard
from sim2sky.hil.native_guard import GUARD_SOURCES, NativeMonitor, open_guard
from sim2sky.hil.native_library import cache_folder, native_library
from sim2sky.runtime.assembly import make_monitor
from sim2sky.runtime.autopilot import Autopilot, AutopilotGains
from sim2sky.runtime.flight_agent import FlightAgent
from sim2sky.runtime.inference import load_backend
from sim2sky.runtime.limits import SafetyLimits
from sim2sky.runtime.safety import Mode, SafetyMonitor, Trip
from sim2sky.runtime.state import Command, Health, PolicyState, Sample, Setpoint

DT = 0.05
SETPOINT = Setpoint(altitude_m=160.0, airspeed_mps=18.0, heading_rad=0.3)
FINE = Command(0.1, -0.2, 0.05, 0.7)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Libraries go to a folder of this module."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        native_guard.guard_library.cache_clear()
        yield folder
    native_guard.guard_library.cache_clear()


def pair(**limits: object) -> tuple[SafetyMonitor, NativeMonitor]:
    gains = airframe("ultrastick25e").gains
    values = SafetyLimits.from_json(limits)
    surface, trim = (math.radians(25.0),) * 3, Command(0.0, -0.16, 0.0, 0.6)
    return (
        SafetyMonitor(values, Autopilot(gains, DT), DT, surface_limit_rad=surface, trim=trim),
        NativeMonitor(values, Autopilot(gains, DT), DT, surface_limit_rad=surface, trim=trim),
    )


LIMITS = SafetyLimits(
    max_range_m=260.0, geofence_polygons=(((200.0, -200.0), (200.0, 200.0), (-200.0, 200.0), (-200.0, -200.0)),),
    return_after_s=2.0, recovery_s=0.5, airspeed_min_mps=12.0, battery_min_voltage=10.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b", settings(), limits=LIMITS)


def native_monitor(bundle: Bundle) -> NativeMonitor:
    safety, contract = bundle.safety(), bundle.contract
    assert safety is not None
    law = Autopilot(AutopilotGains.from_json(safety["fallback"]), 1.0 / contract.rate_hz)
    return NativeMonitor.for_contract(SafetyLimits.from_json(safety), law, contract)


def fly(monitor: SafetyMonitor, bundle: Bundle, env: EnvironmentSettings, seeds: range) -> list[tuple[object, ...]]:
    """Everything a log would hold, for some episodes: outcome, samples, commands, actions, modes, trips, events."""
    agent, vehicle = FlightAgent(bundle.contract, load_backend(bundle), monitor), SimVehicle(env)
    found: list[tuple[object, ...]] = []
    for seed in seeds:
        agent.reset()
        if seed % 2:  # an episode begins disarmed
            monitor.disarm()
        ticks: list[tuple[object, ...]] = []

        def pilot(s: Sample, t: Setpoint, now_ns: int, ticks: list[tuple[object, ...]] = ticks) -> Command:
            k = len(ticks)
            if k == 5:
                monitor.arm()
            if k == 300:
                monitor.kill()
            if k == 310:
                monitor.disarm()
                monitor.arm()
            tick = agent.tick(s, t, now_ns, battery_v=9.9 if k > 200 else 12.0)
            ticks.append(
                (
                    np.array(list(asdict(s).values()), float).tobytes(), np.array(tick.command).tobytes(),
                    tick.action.tobytes(), tick.observation.tobytes(), tick.guard, tick.trips,
                )
            )  # fmt: skip
            return tick.command

        outcome = fly_episode(vehicle, pilot, seed)
        events = [(*e.numbers, np.array(e.state).tobytes()) for e in monitor.events]
        found.append((str(outcome), ticks, events, monitor.events.ticks))
    return found


def test_the_same_episodes_with_either_guard_give_the_same_log(bundle: Bundle) -> None:
    env = settings()
    python = fly(make_monitor(bundle.safety(), bundle.contract), bundle, env, range(6))
    native = fly(native_monitor(bundle), bundle, env, range(6))
    assert python == native
    modes = {tick[4] for flight in python for tick in flight[1]}  # type: ignore[attr-defined]
    assert {Mode.POLICY, Mode.HOLD, Mode.RETURN, Mode.KILLED} <= modes
    # Negative control: a guard with another limit flies otherwise.
    other = native_monitor(bundle)
    other._native[0]._config.fence_buffer_m += 5.0  # type: ignore[reportPrivateUsage]
    assert fly(other, bundle, env, range(6)) != python


def test_kill_disarm_and_arm_are_those_of_python() -> None:
    for monitor in pair():
        assert not monitor.killed and monitor.kill() and monitor.killed and not monitor.arm()
        answer = monitor.guard(sample(), SETPOINT, FINE, 0)
        assert answer == (Command(0.0, 0.0, 0.0, 0.0), Mode.KILLED, Trip.KILL)
        monitor.reset()
        assert monitor.guard(sample(), SETPOINT, FINE, 0).mode is Mode.KILLED  # a reset does not clear it
        monitor.disarm()
        assert monitor.killed and monitor.guard(sample(), SETPOINT, FINE, 0).mode is Mode.KILLED
        assert monitor.arm() and not monitor.killed
        assert monitor.guard(sample(), SETPOINT, FINE, 0).mode is Mode.HOLD  # the fallback law takes over first
    for monitor in pair(kill_switch_enabled=False):
        assert not monitor.kill() and monitor.guard(sample(), SETPOINT, FINE, 0).mode is Mode.POLICY


def test_a_nominal_command_passes_bit_for_bit_and_types_are_those_of_python() -> None:
    odd = Command(0.1 + 0.2, -1.0 / 3.0, 1e-300, 0.1 * 7)
    for monitor in pair():
        answer = monitor.guard(sample(), SETPOINT, odd, 0)
        assert answer == (odd, Mode.POLICY, Trip(0))
        assert isinstance(answer.mode, Mode) and isinstance(answer.trips, Trip) and isinstance(answer.command, Command)
        late = monitor.guard(sample(), SETPOINT, FINE, 0, Health(PolicyState.LATE))
        assert late == (odd, Mode.HOLD, Trip.POLICY_LATE | Trip.BRIDGED)
        assert [str(e) for e in monitor.events] == ["tick 1: policy_late -> HOLD"]


def test_engagement_is_judged_by_the_python_function() -> None:
    python, native = pair()
    far = sample(north_m=480.0)
    assert python.engagement_problems(far, 0) == native.engagement_problems(far, 0) != []
    native.kill()
    assert "kill switch" in native.engagement_problems(sample(), 0)[0]


def test_two_guards_share_nothing() -> None:
    (_, a), (_, b) = pair(), pair()
    a.kill()
    assert a.killed and not b.killed and b.guard(sample(), SETPOINT, FINE, 0).mode is Mode.POLICY


def test_another_fallback_law_is_refused() -> None:
    class Law:
        def reset(self) -> None: ...

        def command(self, sample: Sample, setpoint: Setpoint) -> Command:
            return FINE

    with pytest.raises(TypeError, match="flies the autopilot"):
        NativeMonitor(SafetyLimits(), Law(), DT, surface_limit_rad=(0.4,) * 3)


def test_the_library_is_compiled_once_and_kept_under_its_content(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder() == cache / "sim2sky"
    source, header = tmp_path / "one.c", tmp_path / "one.h"
    header.write_text("#define ONE 1\nint one(void);\n", encoding="utf-8")
    source.write_text('#include "one.h"\nint one(void) { return ONE; }\n', encoding="utf-8")
    first = native_library([source])
    stamp = first.stat().st_mtime_ns
    assert native_library([source]) == first and first.stat().st_mtime_ns == stamp
    assert native_library([source], options=["-DNDEBUG"]) != first
    header.write_text("#define ONE 2\nint one(void);\n", encoding="utf-8")
    second = native_library([source])
    assert second != first and second.is_file() and first.is_file()
    source.write_text("int one(void) { return }\n", encoding="utf-8")
    before = sorted(first.parent.iterdir())
    with pytest.raises(ToolchainError, match="refuses the source"):
        native_library([source])
    assert sorted(first.parent.iterdir()) == before  # nothing half-written
    file = tmp_path / "file"
    file.write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    with pytest.raises(ToolchainError, match="cannot keep a compiled library"):
        native_library([tmp_path / "one.h"])


def test_every_source_of_the_guard_is_known() -> None:
    core = native_guard.firmware_folder() / "core"
    assert all((core / f"{name}.c").is_file() for name in GUARD_SOURCES)
    monitor = pair()[1]
    monitor.guard(sample(), SETPOINT, FINE, 0)
    (library,) = (cache_folder() / "native").glob("guard_calls-*.so")
    assert library.stat().st_size < 200_000


def test_the_benchmark_counts_compares_and_says_what_it_has_not_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = guard_twin.campaign(3000, 20261127, workers=1)
    assert report.steps >= 3000 and not report.different
    assert sum(report.modes.values()) == report.steps and report.trips["RANGE"] > 0
    monkeypatch.setattr(guard_twin.sys, "argv", ["guard_twin.py", "--steps", "400", "--workers", "1"])
    assert guard_twin.main() == 1  # one flight does not see everything
    printed = capsys.readouterr().out
    assert " 0 with another command bit, mode or trip" in printed and "never seen: " in printed
    monkeypatch.setattr(guard_twin, "differences", lambda *_: ["flight 0 step 1"])
    assert guard_twin.campaign(400, 1, workers=1).different == ["flight 0 step 1"]


def test_a_change_of_one_operator_is_found_or_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [(line, changed) for line, _, _, changed in guard_mutants.mutants("a;\nif (x < y && z) {\n")] == [
        (2, "a;\nif (x <= y && z) {\n"), (2, "a;\nif (x < y || z) {\n"),
    ]  # fmt: skip
    monkeypatch.setattr(guard_mutants, "SWAPS", ((" += ", " -= "), ("++*", "--*")))
    monkeypatch.setattr(
        guard_mutants, "noticed", lambda library, flights: any(differences(f, open_guard(library)) for f in flights)
    )
    flights = [guard_twin.flown(5, k) for k in range(20)]
    assert list(guard_mutants.survivors(flights, tmp_path, ("watch.c",))) == ["found", "found"]
    # Negative control: where nobody flies, nothing is noticed.
    said = list(guard_mutants.survivors([], tmp_path, ("watch.c",)))
    assert len(said) == 2 and all(text.startswith("survives watch.c:") for text in said)
