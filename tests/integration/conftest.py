"""Fixtures of the integration tests that need a server: one OpenSSH server for all tests of a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.ssh_support import SshServer, ssh_server


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def laptop(sshd: SshServer, monkeypatch: pytest.MonkeyPatch) -> SshServer:
    """The server, seen from the home folder of somebody who knows it; no agent."""
    monkeypatch.setenv("HOME", str(sshd.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return sshd
