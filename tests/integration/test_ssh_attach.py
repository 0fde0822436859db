"""The flight agent behind SSH: it reaches the plant through the tunnel, and never outlives the connection."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from tests.flight_support import make_bundle, settings
from tests.ssh_support import SshServer, make_venv, ssh_server, wait_for

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment import ssh_attach
from sim2sky.deployment.ssh import SshTransport
from sim2sky.deployment.ssh_address import SshAccess
from sim2sky.errors import ConfigError, LinkError
from sim2sky.hil.hil_test import compare_with_simulation, run_hil
from sim2sky.telemetry.flight_log import read_flight_log

SRC = Path(ssh_attach.__file__).resolve().parents[2]
SEEDS = [11, 12]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "hand", settings())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target") / "controls"
    folder.mkdir()
    make_venv(folder)
    return folder


@pytest.fixture
def transport(laptop: SshServer, root: Path) -> Iterator[SshTransport]:
    transport = SshTransport(laptop.url(root))
    yield transport
    transport.close()


def agent(transport: SshTransport, bundle: Bundle) -> list[str]:
    """The flight agent on the target, started from here."""
    python = f"{transport.root}/venv/bin/python3"
    argv = ["env", f"PYTHONPATH={SRC}", python, "-m", "sim2sky.runtime.main", "--bundle", str(bundle.path)]
    return transport.command(argv)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}


def agents_on(server: SshServer) -> list[int]:
    """Flight agents that run in the server's sessions, without those that keep them."""
    found = []
    for child in server.children():
        with contextlib.suppress(psutil.Error):
            line = child.cmdline()
            if "sim2sky.runtime.main" in line and line[1:3] == ["-m", "sim2sky.runtime.main"]:
                found.append(child.pid)
    return found


def gone(pid: int) -> Callable[[], bool]:
    return lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_hil_through_the_tunnel_reproduces_hil_here(
    transport: SshTransport, laptop: SshServer, bundle: Bundle, root: Path, tmp_path: Path
) -> None:
    here = run_hil(
        [sys.executable, "-m", "sim2sky.runtime.main", "--bundle", str(bundle.path)],
        settings(), SEEDS, link="tcp", environment=environment(),
    )  # fmt: skip
    there = run_hil(
        agent(transport, bundle), settings(), SEEDS,
        link="tcp", log_dir=tmp_path, environment=environment(), bundle_digest=bundle.digest,
    )  # fmt: skip
    agreement = compare_with_simulation(there.outcomes, here.outcomes)
    assert agreement.agrees
    assert all(o.success for o in there.outcomes)
    assert there.agent_log == tmp_path / "hil_agent.h5"  # fetched from the target
    log = read_flight_log(there.agent_log)
    assert len(log.episodes) == len(SEEDS)
    assert log.metadata.bundle_digest == bundle.digest
    assert list((root / "logs").iterdir()) == []
    wait_for(lambda: not agents_on(laptop), "the agent's end")
    print(
        f"exchange, median: here {here.exchange_us['median']:.0f} us, through SSH {there.exchange_us['median']:.0f} us"
    )


@pytest.mark.parametrize("how", ["network", "terminate", "kill"])
def test_the_agent_ends_with_the_connection(
    transport: SshTransport, laptop: SshServer, bundle: Bundle, root: Path, tmp_path: Path, how: str
) -> None:
    ended: list[int] = []

    def attached() -> list[psutil.Process]:
        return [c for c in psutil.Process().children() if "sim2sky.deployment.ssh_attach" in " ".join(c.cmdline())]

    def cut() -> None:
        wait_for(lambda: agents_on(laptop), "the agent", 60.0)
        ended.extend(agents_on(laptop))
        if how == "network":
            laptop.break_connections()
        else:
            (process,) = attached()
            process.send_signal(signal.SIGTERM if how == "terminate" else signal.SIGKILL)

    def start_cutting(episode: int, _: object) -> None:
        if episode == 0:
            thread.start()

    thread = threading.Thread(target=cut)
    with pytest.raises(LinkError) as caught:
        run_hil(
            agent(transport, bundle), settings(), list(range(200)),
            link="tcp", log_dir=tmp_path, environment=environment(), progress=start_cutting,
        )  # fmt: skip
    thread.join()
    assert len(ended) == 1
    wait_for(gone(ended[0]), "the agent's end")
    assert "clos" in caught.value.message or "the connection broke" in caught.value.message
    wait_for(lambda: list((root / "logs").iterdir()) == [], "the log's removal")


def test_an_agent_that_ignores_being_asked_is_killed(
    transport: SshTransport, laptop: SshServer, tmp_path: Path
) -> None:
    script = f"import os, signal, time; signal.signal(15, signal.SIG_IGN); open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"  # noqa: E501
    command = transport.command(["python3", "-c", script, "--link", "tcp:127.0.0.1:9"])
    process = subprocess.Popen(command, env=environment())
    try:
        pid = tmp_path / "pid"
        wait_for(lambda: pid.is_file() and pid.read_text(), "the agent", 60.0)
        number = int(pid.read_text())
        assert psutil.pid_exists(number)
    finally:
        process.kill()
        process.wait()
    wait_for(gone(number), "the agent's end")


def attached(transport: SshTransport, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: PLW1510 - exit codes are compared
        transport.command(argv), env=environment(), capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -SEGV $$", 139)])
def test_output_and_exit_code_come_through(transport: SshTransport, script: str, code: int) -> None:
    done = attached(transport, ["sh", "-c", f'echo "$@"; {script}', "x", "--link", "tcp:127.0.0.1:9"])
    assert done.returncode in (code, 1 if code == 139 else code)
    kind, host, port = done.stdout.split()[1].split(":")
    assert (kind, host) == ("tcp", "127.0.0.1")
    assert int(port) > 9  # not ours: the tunnel's end over there
    if code == 139:
        assert "ended by SIGSEGV" in done.stderr


def test_a_log_with_spaces_in_its_name(transport: SshTransport, tmp_path: Path) -> None:
    log = tmp_path / "my log.h5"
    done = attached(
        transport, ["sh", "-c", 'echo hello > "$4"', "x", "--link", "tcp:127.0.0.1:9", "--log", str(log), "--overwrite"]
    )
    assert done.returncode == 0, done.stderr
    assert log.read_text() == "hello\n"


def test_only_tcp_goes_through(transport: SshTransport) -> None:
    done = attached(transport, ["true", "--link", "udp:127.0.0.1:9"])
    assert done.returncode == 2
    assert "cannot go through an SSH connection" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("argv", [["true"], ["true", "--link"]])
def test_a_command_without_a_link(transport: SshTransport, argv: list[str]) -> None:
    with pytest.raises(ConfigError, match="no --link"):
        ssh_attach.attach(transport, argv)


def test_a_missing_program(transport: SshTransport) -> None:
    done = attached(transport, ["no-such-agent", "--link", "tcp:127.0.0.1:9"])
    assert done.returncode == 1
    assert "no-such-agent: No such file" in done.stdout


def test_a_server_that_forwards_nothing_names_the_setting(tmp_path: Path) -> None:
    with ssh_server(tmp_path, options=["AllowTcpForwarding no"]) as server:
        known = tmp_path / "known_hosts"
        server.trust(known)
        transport = SshTransport(server.url("/tmp"), access=SshAccess(known_hosts=known, key=server.key))
        done = attached(transport, ["true", "--link", "tcp:127.0.0.1:9"])
        transport.close()
    assert done.returncode == 1
    assert "AllowTcpForwarding yes" in done.stderr
    assert "Traceback" not in done.stderr
