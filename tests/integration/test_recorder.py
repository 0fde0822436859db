"""The recorder and its process: what is recorded is read, whichever of the two is killed, stopped or out of disk."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
from tests.flight_support import agent_environment
from tests.recorder_support import (
    CONTRACT,
    METADATA,
    ROOT,
    finished,
    fly,
    flyer,
    read_all,
    record,
    ticks_of,
    wait_for,
    without_h5py,
)

from sim2sky.errors import FlightLogError
from sim2sky.runtime.ladder import Trip
from sim2sky.runtime.recorder import Recorder
from sim2sky.runtime.recorder_process import JournalKeeper
from sim2sky.telemetry.flight_log import FlightLogWriter, LogMetadata, read_flight_log, recover
from sim2sky.telemetry.journal import Kind, json_frame
from sim2sky.telemetry.log_files import Header, create_parts, lock_parts, parts_of
from sim2sky.telemetry.trips import STATE_COLUMNS, TripEvent, TripLog


def test_what_is_recorded_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    recorder = Recorder(path, METADATA, CONTRACT)
    fly(recorder, 300, 3, deadline_misses=2)
    recorder.begin(4)
    for k in range(50):
        record(recorder, k, 4, reward=None)
    recorder.event({"trip": "ATTITUDE", "tick": 7})
    recorder.begin(5)  # the one before was never ended
    fly(recorder, 0, 6)  # no ticks, no episode
    recorder.end(success=True, termination="nothing is open")
    recorder.close()
    recorder.close()
    assert recorder.problem == "" and recorder.dropped == 0 and [p.name for p in tmp_path.iterdir()] == ["f.h5"]
    assert read_all(path) == [(3, list(range(300)), "completed"), (4, list(range(50)), "abandoned")]
    with read_flight_log(path) as log:
        assert log.metadata == METADATA
        first, second = log.episodes
        assert first.attrs["total_reward"] == 300.0 and first.attrs["deadline_misses"] == 2 and first.success
        assert first.attrs["recovered"] is False and first.attrs["dropped_ticks"] == 0 and first.events == []
        assert second.events == [{"trip": "ATTITUDE", "tick": 7}] and "rewards" not in second
        assert "events" not in second.datasets and second.name == "episode_0001"
        assert first.columns("observations") == CONTRACT.observation_names


def test_the_recorder_is_a_process_of_its_own_that_ends_with_the_log(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "f.h5", METADATA, CONTRACT)
    process = psutil.Process(recorder.process)
    assert process.ppid() == os.getpid() and os.getsid(process.pid) == process.pid
    wait_for(lambda: process.nice() == min(os.nice(0) + 5, 19), "the recorder process to step back")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
    fly(recorder, 30)
    recorder.close()
    assert recorder.process is None and not process.is_running()
    assert read_all(tmp_path / "f.h5") == [(0, list(range(30)), "completed")]


def test_a_log_in_progress_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    recorder = Recorder(path, METADATA, CONTRACT)
    try:
        fly(recorder, 30, 1)
        recorder.begin(2)
        for k in range(10):
            record(recorder, k, 2)
        wait_for(lambda: [len(ticks) for _, ticks, _ in read_all(path)] == [30, 10], "both episodes")
        with read_flight_log(path) as log:
            assert log.episodes[0].success and log.episodes[1].attrs["recovered"] is True
            assert ticks_of(log.episodes[1]) == list(range(10))
        with pytest.raises(FlightLogError, match="still being written by another process"):
            recover(path)
    finally:
        recorder.close()


def writers(path: Path) -> list[psutil.Process]:
    """Recorder processes that were started for a log."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            words = process.cmdline()
            if str(path) in words and any("recorder_process" in word for word in words):
                found.append(process)
    return found


@pytest.mark.parametrize("victim", ["flight", "recorder", "both"])
def test_a_kill_costs_at_most_the_running_episode(tmp_path: Path, victim: str) -> None:
    """Real SIGKILLs at scattered moments."""
    rng = np.random.default_rng(len(victim))
    for attempt in range(3):
        path = tmp_path / f"{attempt}.h5"
        with flyer(path) as process:
            assert process.stdout is not None
            recorder = int(process.stdout.readline().split()[1])
            assert [writer.pid for writer in writers(path)] == [recorder]
            wanted = int(rng.integers(2, 6))
            ended = 0
            while ended < wanted:
                ended += process.stdout.readline().startswith("end")
            time.sleep(float(rng.uniform(0, 0.05)))
            if victim != "flight":
                os.kill(recorder, signal.SIGKILL)
            if victim == "recorder":  # the flight goes on, and so does its log
                while not ((line := process.stdout.readline()).startswith("end") and str(recorder) not in line):
                    ended += line.startswith("end")
                ended += 1
            process.kill()
            ended += sum(line.startswith("end") for line in process.stdout)
        if victim != "both":
            wait_for(lambda path=path: finished(path), "the recorder process to finish the log")
        else:  # another recorder may have been started between the two kills; it ends with what it has
            wait_for(lambda path=path: not writers(path), "the last recorder process to end")
        got = read_all(path)
        whole = [seed for seed, ticks, end in got if end == "completed" and ticks == list(range(40))]
        # A recorder that dies takes at most the one it was handling with it, and a flight that dies none.
        assert len(set(range(ended)) - set(whole)) <= (victim != "flight"), got
        assert [seed for seed, _, _ in got] == list(range(len(got)))
        if not finished(path):
            recover(path)
            assert read_all(path) == got and finished(path)


def test_after_the_flight_process_died_the_last_ticks_are_there(tmp_path: Path) -> None:
    """What was handed over before a SIGKILL is not even a second short: it was in the pipe."""
    path = tmp_path / "f.h5"
    with flyer(path, ticks=100000, period_s=0.002) as process:
        assert process.stdout is not None
        while process.stdout.readline().split() != ["tick", "0", "200"]:
            pass
        process.kill()
        said = [int(line.split()[2]) for line in process.stdout if line.startswith("tick")]
    wait_for(lambda: finished(path), "the recorder process to finish the log")
    ((_, ticks, termination),) = read_all(path)
    assert ticks == list(range(len(ticks))) and len(ticks) > max([200, *said])
    assert termination == "flight process ended"


def test_another_recorder_process_goes_on_where_one_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    recorder = Recorder(path, METADATA, CONTRACT)
    recorder.begin(1)
    killed: list[int] = []
    for k in range(4000):
        record(recorder, k, 1)
        time.sleep(0.001)
        if k in {300, 2600} and recorder.process is not None:
            killed.append(recorder.process)
            os.kill(recorder.process, signal.SIGKILL)
    recorder.end(success=True, termination="completed")
    assert recorder.process not in killed
    recorder.close()
    assert "the recorder process died (-9); another goes on" in recorder.problem
    with read_flight_log(path) as log:
        (episode,) = log.episodes
        ticks = ticks_of(episode)
        # Only what a dying process had read and not yet written may be missing.
        assert ticks == sorted(set(ticks)) and ticks[-1] == 3999 and len(ticks) > 3800
        assert episode.attrs["dropped_ticks"] == 4000 - len(ticks) and episode.success


def test_a_stalled_recorder_never_blocks_the_loop_and_its_gaps_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    recorder = Recorder(path, METADATA, CONTRACT)
    recorder.begin(1)
    record(recorder, 0, 1)
    wait_for(lambda: len(read_all(path)) == 1, "the first tick")
    assert recorder.process is not None
    os.kill(recorder.process, signal.SIGSTOP)
    took: list[int] = []
    try:
        for k in range(1, 12000):
            begun = time.perf_counter_ns()
            record(recorder, k, 1)
            took.append(time.perf_counter_ns() - begun)
        recorder.end(success=True, termination="completed")
        assert recorder.dropped > 0 and "could not keep up" in recorder.problem
    finally:
        os.kill(recorder.process, signal.SIGCONT)
        recorder.close()
    assert np.median(took) < 1e6  # 1 ms: far below any tick, and far above what a loaded machine needs for a write
    with read_flight_log(path) as log:
        (episode,) = log.episodes
        ticks = ticks_of(episode)
        assert len(ticks) == 12000 - recorder.dropped and ticks[: len(ticks) - 1] == list(range(len(ticks) - 1))
        assert episode.attrs["dropped_ticks"] == recorder.dropped and episode.termination == "completed"


def test_a_lockstep_run_waits_for_the_recorder_instead(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "f.h5", METADATA, CONTRACT, wait_s=20.0)
    fly(recorder, 12000)
    recorder.close()
    assert recorder.dropped == 0 and recorder.problem == ""
    assert read_all(tmp_path / "f.h5") == [(0, list(range(12000)), "completed")]


def test_a_recorder_that_cannot_run_is_not_started_over_and_over(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    recorder = Recorder(path, METADATA, CONTRACT)
    assert recorder.process is not None
    parts_of(path).rename(tmp_path / "moved")
    os.kill(recorder.process, signal.SIGKILL)
    seen, begun = {recorder.process}, time.monotonic()
    recorder.begin(1)
    k = 0
    while time.monotonic() - begun < 2.5:
        record(recorder, k, 1)
        seen.add(recorder.process)
        time.sleep(0.002)
        k += 1
    assert 2 <= len(seen) <= 4 and "flying without a log" in recorder.problem
    (tmp_path / "moved").rename(parts_of(path))
    recorder.end(success=True, termination="completed")
    recorder.close()
    ((_, ticks, termination),) = read_all(path)
    assert ticks == list(range(k - recorder.dropped)) and termination == "completed"


def test_a_long_flight_is_cut_into_segments_of_bounded_size(tmp_path: Path) -> None:
    path, source = tmp_path / "f.h5", tmp_path / "source.h5"
    recorder = Recorder(source, METADATA, CONTRACT, wait_s=20.0)
    pid = recorder.process
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    recorder.begin(9)
    for k in range(1000):
        record(recorder, k, 9)
    recorder.end(success=True, termination="landed")
    stream = os.read(recorder._reading, 1 << 20)
    os.kill(pid, signal.SIGCONT)
    recorder.close()

    create_parts(path, Header.of(METADATA, CONTRACT), overwrite=False)
    problems: list[str] = []
    keeper = JournalKeeper(path, problems.append, segment_bytes=100_000)
    largest = 0
    for start in range(0, len(stream), 3001):
        keeper.feed(stream[start : start + 3001])
        largest = max(largest, *(p.stat().st_size for p in parts_of(path).glob("*.journal")), 0)
    assert keeper.close() and problems == [] and largest <= 110_000
    with read_flight_log(path) as log:
        segments = log.episodes
        assert len(segments) >= 4 and [e.attrs["segment"] for e in segments] == list(range(len(segments)))
        assert [k for e in segments for k in ticks_of(e)] == list(range(1000))
        assert {e.termination for e in segments[:-1]} == {"continued"} and segments[-1].termination == "landed"
        assert segments[-1].success and not segments[0].success and {e.attrs["flight"] for e in segments} == {0}
        assert all(e.attrs["dropped_ticks"] == 0 and e.seed == 9 for e in segments)


FULL = """
import os, shutil, sys, time
from pathlib import Path
from tests.recorder_support import *
folder = Path(sys.argv[1])
path = folder / "f.h5"
recorder = Recorder(path, METADATA, CONTRACT)
fly(recorder, 100, 0)
wait_for(lambda: len(read_all(path)) == 1, "the first episode")
(folder / "ballast").write_bytes(bytes(3_300_000))
recorder.begin(1)
k = 0
while not recorder.problem:
    assert k < 100000
    record(recorder, k, 1); k += 1
    time.sleep(0.0005)
print("full", recorder.problem, flush=True)
for _ in range(500):
    record(recorder, k, 1); k += 1
    time.sleep(0.001)
assert recorder.recording
(folder / "ballast").unlink()
while "recording again" not in recorder.problem:
    assert k < 200000
    record(recorder, k, 1); k += 1
    time.sleep(0.0005)
print("again", recorder.problem, flush=True)
recorder.end(success=True, termination="completed")
fly(recorder, 50, 2)
recorder.close()
print("closed", recorder.problem, flush=True)
shutil.copytree(folder, sys.argv[2])
"""


def test_a_full_disk_is_said_once_flown_on_and_recorded_again_when_there_is_room(tmp_path: Path) -> None:
    """A real file system of 4 MB, mounted in a name space of its own that ends with the child."""
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    probe = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", str(disk)], check=False)
    if probe.returncode:
        pytest.skip("mounting a small file system needs root")
    environment = agent_environment()
    environment["PYTHONPATH"] += f":{ROOT}"
    mount = f'mount -t tmpfs -o size=4m none {disk} && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", FULL, str(disk), str(copy)]
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "full cannot write the flight log" in result.stdout and "No space left" in result.stdout
    assert "again recording again" in result.stdout
    assert result.stderr.count("No space left") == 1 and "Traceback" not in result.stderr
    got = read_all(copy / "f.h5")
    assert [(seed, end) for seed, _, end in got] == [(0, "completed"), (1, "completed"), (2, "completed")]
    assert got[0][1] == list(range(100)) and got[2][1] == list(range(50))
    with read_flight_log(copy / "f.h5") as log:
        attrs = log.episodes[1].attrs
        assert attrs["dropped_ticks"] >= 500 - 100 and ticks_of(log.episodes[1])[0] == 0
    assert list(disk.iterdir()) == []


def test_without_h5py_the_journals_are_kept_and_recovered_on_a_machine_that_has_it(tmp_path: Path) -> None:
    environment = without_h5py(tmp_path / "site")
    path = tmp_path / "f.h5"
    code = f"""
from pathlib import Path
from tests.recorder_support import *
recorder = Recorder(Path({str(path)!r}), METADATA, CONTRACT)
fly(recorder, 20, 0)
fly(recorder, 30, 1)
recorder.close()
print(recorder.problem)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    assert "h5py is missing here" in result.stdout and "sim2sky log recover" in result.stdout, result.stderr
    assert not path.exists()
    expected = [(0, list(range(20)), "completed"), (1, list(range(30)), "completed")]
    assert read_all(path) == expected  # readable as it is ...
    assert recover(path) == 2 and finished(path)
    assert read_all(path) == expected  # ... and made one file
    with h5py.File(path) as file:
        assert set(file) == {"metadata", "episode_0000", "episode_0001"}
    assert recover(path) == 0  # nothing left to do


def test_places_that_cannot_be_written_are_plain_errors_before_the_flight(tmp_path: Path) -> None:
    with pytest.raises(FlightLogError, match="there is no folder"):
        Recorder(tmp_path / "none" / "f.h5", METADATA, CONTRACT)
    (tmp_path / "f.h5").write_text("a log")
    with pytest.raises(FlightLogError, match="already exists"):
        Recorder(tmp_path / "f.h5", METADATA, CONTRACT)
    with pytest.raises(FlightLogError, match="source 'dream'"):
        Recorder(tmp_path / "g.h5", LogMetadata("dream"), CONTRACT)  # type: ignore[arg-type]
    with pytest.raises(FlightLogError, match="no flight log"):
        recover(tmp_path / "g.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.h5"]


def test_a_log_that_another_flight_still_writes_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim2sky.telemetry.log_files.LOCK_WAIT_S", 0.3)
    path = tmp_path / "f.h5"
    writer = FlightLogWriter(path, METADATA, CONTRACT)
    with lock_parts(writer.parts), pytest.raises(FlightLogError, match="still being written"):
        Recorder(path, METADATA, CONTRACT, overwrite=True)
    recorder = Recorder(path, METADATA, CONTRACT, overwrite=True)
    fly(recorder, 10)
    recorder.close()
    assert read_all(path) == [(0, list(range(10)), "completed")]


def test_an_event_too_large_for_a_frame_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "f.h5", METADATA, CONTRACT)
    recorder.begin(0)
    record(recorder, 0)
    recorder.event({"text": "x" * 5000})
    recorder.end(success=True, termination="t" * 5000, note="n" * 5000)
    recorder.close()
    assert "log entry" in recorder.problem
    with read_flight_log(tmp_path / "f.h5") as log:
        assert len(log.episodes[0].termination) == 500 == len(log.episodes[0].attrs["note"])


def test_damage_in_a_journal_costs_the_ticks_it_hit(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with flyer(path, ticks=2000, period_s=0.0005) as process:
        assert process.stdout is not None
        recorder = int(process.stdout.readline().split()[1])
        while process.stdout.readline().split() != ["tick", "0", "500"]:
            pass
        wait_for(lambda: len(read_all(path)) == 1 and len(read_all(path)[0][1]) > 300, "a few hundred ticks")
        process.kill()
        os.kill(recorder, signal.SIGKILL)
    (journal,) = parts_of(path).glob("*.journal")
    data = bytearray(journal.read_bytes())
    before = read_all(path)[0][1]
    data[len(data) // 2] ^= 0xFF
    journal.write_bytes(bytes(data) + json_frame(Kind.END, {"termination": "x"})[:-3])
    after = read_all(path)[0][1]
    assert len(after) == len(before) - 1 and set(after) < set(before)
    with read_flight_log(path) as log:
        assert log.episodes[0].attrs["dropped_ticks"] == 1


def test_trips_of_the_guard_are_events_of_their_episode(tmp_path: Path) -> None:
    log = TripLog(capacity=3)
    recorder = Recorder(tmp_path / "f.h5", METADATA, CONTRACT)
    for seed in range(2):
        recorder.begin(seed)
        log.clear()
        for k in range(6):
            record(recorder, k, seed)
            if k % 2 == seed:
                state = tuple(float(k + i) for i in range(len(STATE_COLUMNS)))
                log.add(TripEvent(1000 * k, k, int(Trip.ATTITUDE), int(Trip.ATTITUDE | Trip.RANGE), 1, state))
                log.count(int(Trip.ATTITUDE))
            if k == 5:
                log.add(TripEvent(5000, 5, 0, 0, 0, state))
            recorder.trips(log)
        recorder.end(success=True, termination="completed")
    recorder.close()
    assert recorder.problem == ""
    with read_flight_log(tmp_path / "f.h5") as read:
        for seed, episode in enumerate(read.episodes):
            events = episode.events
            assert [e["tick"] for e in events] == [seed, seed + 2, seed + 4]
            assert events[0]["reasons"] == ["attitude"] and events[0]["mode"] == 1 and events[0]["event"] == "trip"
            assert events[0]["state"]["roll_rad"] == seed and events[0]["state"]["battery_v"] == seed + 13
            assert episode.attrs["trip_ticks"] == '{"attitude": 3}' and episode.attrs["trip_events_dropped"] == 1
