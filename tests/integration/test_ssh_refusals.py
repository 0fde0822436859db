"""Everything that can be wrong with an SSH target, on a real OpenSSH server: each is a plain error with its remedy."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ssh_support import USER, SshServer, free_port, make_key, ssh_server

from sim2sky.deployment.ssh import SshTransport
from sim2sky.deployment.ssh_address import SshAccess
from sim2sky.deployment.ssh_session import Limits
from sim2sky.errors import TargetError


def refused(url: str, access: SshAccess | None = None, limits: Limits | None = None) -> TargetError:
    transport = SshTransport(url, access=access, limits=limits)
    with pytest.raises(TargetError) as caught:
        transport.run(["true"])
    assert caught.value.hint
    assert caught.value.exit_code == 1
    assert "\n" not in caught.value.message
    return caught.value


def fingerprint(key: Path) -> str:
    out = subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True).stdout
    return out.split()[1]


def test_the_other_tests_can_fail(laptop: SshServer, tmp_path: Path) -> None:
    transport = SshTransport(laptop.url(tmp_path))
    assert transport.run(["echo", "hello"]).stdout == "hello\n"
    transport.close()


@pytest.mark.parametrize("there", ["no file", "empty file", "another host's key"])
def test_unknown_host_key(laptop: SshServer, tmp_path: Path, there: str) -> None:
    known = tmp_path / "known_hosts"
    if there == "empty file":
        known.write_text("")
    if there == "another host's key":
        known.write_text(f"elsewhere {make_key(tmp_path / 'other').with_suffix('.pub').read_text()}")
    error = refused(laptop.url("/tmp/x"), SshAccess(known_hosts=known))
    assert "host key is unknown" in error.message
    assert fingerprint(laptop.host_key) in error.message
    assert f"ssh-keyscan -p {laptop.port} 127.0.0.1 >> {known}" in error.hint


def test_the_remedy_for_an_unknown_host_key_works(laptop: SshServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    error = refused(laptop.url("/tmp/x"), SshAccess(known_hosts=known))
    command = error.hint.partition("then: ")[2]
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    transport = SshTransport(laptop.url("/tmp/x"), access=SshAccess(known_hosts=known))
    assert transport.run(["true"]).returncode == 0
    transport.close()


def test_changed_host_key_and_its_remedy(laptop: SshServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    kind, key, *_ = make_key(tmp_path / "old").with_suffix(".pub").read_text().split()
    known.write_text(f"[127.0.0.1]:{laptop.port} {kind} {key}\n")
    error = refused(laptop.url("/tmp/x"), SshAccess(known_hosts=known))
    assert "host key CHANGED" in error.message
    assert fingerprint(laptop.host_key) in error.message
    subprocess.run(["bash", "-c", error.hint.partition("anew: ")[2]], check=True, capture_output=True)
    transport = SshTransport(laptop.url("/tmp/x"), access=SshAccess(known_hosts=known))
    assert transport.run(["true"]).returncode == 0
    transport.close()


def test_a_revoked_host_key(laptop: SshServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    laptop.trust(known)
    known.write_text(known.read_text() + "@revoked " + known.read_text())
    assert "revoked" in refused(laptop.url("/tmp/x"), SshAccess(known_hosts=known)).message


def test_a_careless_configuration_does_not_switch_the_check_off(
    sshd: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(
        f"Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile none\n  IdentityFile {sshd.key}\n"
    )
    assert "host key is unknown" in refused(sshd.url("/tmp/x")).message


def test_wrong_user(laptop: SshServer) -> None:
    error = refused(laptop.url("/tmp/x", user="nosuchuser"))
    assert "permission denied for user 'nosuchuser'" in error.message
    assert f"ssh-copy-id -p {laptop.port} nosuchuser@127.0.0.1" in error.hint


def test_wrong_key(laptop: SshServer, tmp_path: Path) -> None:
    error = refused(laptop.url("/tmp/x"), SshAccess(key=make_key(tmp_path / "other")))
    assert "permission denied" in error.message
    assert str(tmp_path / "other") in error.message


def test_a_key_with_a_passphrase(laptop: SshServer, tmp_path: Path) -> None:
    error = refused(laptop.url("/tmp/x"), SshAccess(key=make_key(tmp_path / "locked", passphrase="secret")))  # noqa: S106
    assert "cannot use the key" in error.message
    assert "ssh-add" in error.hint


def test_a_missing_key(laptop: SshServer, tmp_path: Path) -> None:
    error = refused(laptop.url("/tmp/x"), SshAccess(key=tmp_path / "missing"))
    assert "missing: No such file" in error.message


def test_a_file_that_is_no_key(laptop: SshServer, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    assert "cannot use the key" in refused(laptop.url("/tmp/x"), SshAccess(key=tmp_path / "text")).message


def test_agent_authentication(laptop: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    laptop.trust(tmp_path / ".ssh" / "known_hosts")
    refused(laptop.url("/tmp/x"))
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.PIPE)
    try:
        assert agent.stdout is not None
        agent.stdout.readline()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        subprocess.run(["ssh-add", "-q", str(laptop.key)], check=True)
        transport = SshTransport(laptop.url("/tmp/x"))
        assert transport.run(["true"]).returncode == 0
        transport.close()
    finally:
        agent.terminate()
        agent.wait(10)
        agent.stdout.close()  # type: ignore[union-attr]


def test_nobody_listens(laptop: SshServer) -> None:
    port = free_port()
    error = refused(f"ssh://{USER}@127.0.0.1:{port}/tmp/x")
    assert f"connection refused on port {port}" in error.message


def test_unknown_name(laptop: SshServer) -> None:
    assert "unknown host 'no-such-host.invalid'" in refused("ssh://pi@no-such-host.invalid/tmp/x").message


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_link_that_never_speaks(laptop: SshServer, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    error = refused(f"ssh://{USER}@127.0.0.1:{port}/tmp/x", limits=Limits(connect_s=0.5))
    assert "no SSH answer" in error.message
    assert "0.5 s" in error.message


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 4096, b""])
def test_a_port_that_does_not_speak_ssh(laptop: SshServer, listener: socket.socket, says: bytes) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(says)

    thread = threading.Thread(target=serve)
    thread.start()
    error = refused(f"ssh://{USER}@127.0.0.1:{listener.getsockname()[1]}/tmp/x", limits=Limits(connect_s=10))
    thread.join()
    assert "does not speak SSH" in error.message


def test_a_folder_that_holds_something_else(laptop: SshServer, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    transport = SshTransport(laptop.url(tmp_path))
    with pytest.raises(TargetError, match=r"holds 'thesis\.tex'"):
        transport.prepare()
    transport.close()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_may_not_be_written(laptop: SshServer) -> None:
    transport = SshTransport(laptop.url("/sys/sim2sky"))  # not even root may
    with pytest.raises(TargetError, match=r"permission denied|Operation not permitted|read-only"):
        transport.prepare()
    transport.close()


@pytest.fixture(scope="module")
def odd_disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """A server in a mount namespace of its own with a full and a read-only disk; the mounts end with it."""
    folder = tmp_path_factory.mktemp("odd")
    for name in ("full", "readonly"):
        (folder / name).mkdir()
    script = (
        f'mount -t tmpfs -o size=256k tmpfs "{folder}/full" && mount -t tmpfs -o ro tmpfs "{folder}/readonly" '
        '&& exec "$0" "$@"'
    )
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    with ssh_server(folder, wrapper=[*unshare, "sh", "-c", script]) as server:
        yield server


@pytest.fixture
def odd(odd_disks: SshServer, monkeypatch: pytest.MonkeyPatch) -> SshServer:
    monkeypatch.setenv("HOME", str(odd_disks.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return odd_disks


def test_no_space(odd: SshServer, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(1 << 20))
    (tmp_path / "small").write_bytes(b"x")
    transport = SshTransport(odd.url(odd.folder / "full"))
    with pytest.raises(TargetError, match="no space left in") as caught:
        transport.put_file(tmp_path / "a", "incoming/a")
    assert "free some space" in caught.value.hint
    assert transport.run(["test", "-e", "incoming/a"]).returncode == 1
    transport.run(["find", ".", "-name", ".*.part", "-delete"])
    transport.put_file(tmp_path / "small", "incoming/a")
    assert transport.run(["cat", "incoming/a"]).stdout == "x"
    transport.close()


def test_read_only_disk(odd: SshServer, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    transport = SshTransport(odd.url(odd.folder / "readonly" / "controls"))
    for action in (transport.prepare, lambda: transport.put_file(tmp_path / "a", "a")):
        with pytest.raises(TargetError, match="read-only file system") as caught:
            action()
        assert "remount" in caught.value.hint
    transport.close()


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    """A server whose users find only what lies in `bin`: no Python."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "env", "timeout", "cat", "mkdir"):
        (programs / name).symlink_to(str(shutil.which(name)))
    with ssh_server(tmp_path, path=str(programs)) as server:
        monkeypatch.setenv("HOME", str(server.home))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        yield server


def test_no_python(bare: SshServer, tmp_path: Path) -> None:
    transport = SshTransport(bare.url(tmp_path / "target"))
    with pytest.raises(TargetError, match="it has no python3") as caught:
        transport.python()
    assert "apt install python3" in caught.value.hint
    transport.close()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 3 5", "is Python 3.5; installing needs 3.6"),
        ("echo 'cannot execute: required file not found' >&2; exit 126", "does not start: cannot execute"),
        ("echo what", "does not start"),
    ],
)
def test_a_python_that_is_too_old_or_broken(bare: SshServer, tmp_path: Path, script: str, message: str) -> None:
    (tmp_path / "bin" / "python3").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "python3").chmod(0o755)
    transport = SshTransport(bare.url(tmp_path / "target"))
    with pytest.raises(TargetError, match=re.escape(message)) as caught:
        transport.python()
    assert caught.value.hint
    transport.close()


def test_a_server_without_sha256sum(bare: SshServer, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    transport = SshTransport(bare.url(tmp_path / "target"))
    with pytest.raises(TargetError, match="cannot verify") as caught:
        transport.put_file(tmp_path / "a", "a")
    assert "sha256sum" in caught.value.hint
    assert not (tmp_path / "target" / "a").exists()
    transport.close()


def test_a_virtual_environment_in_the_folder_comes_first(laptop: SshServer, tmp_path: Path) -> None:
    transport = SshTransport(laptop.url(tmp_path / "target"))
    assert not transport.python()[0].startswith(str(tmp_path))
    (tmp_path / "target" / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "target" / "venv" / "bin" / "python3").symlink_to("/usr/bin/env")
    transport.close()
    fresh = SshTransport(laptop.url(tmp_path / "target"))
    with pytest.raises(TargetError, match="venv/bin/python3 does not start"):  # it was asked, and is no Python
        fresh.python()
    fresh.close()
