"""A real OpenSSH server on loopback for the tests: own keys, own port, ended by its own process id."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from sim2sky.deployment.local_site import TARGET_PACKAGES, link_site

USER = getpass.getuser()


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Poll until it holds; the machine may be busy."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.01)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def make_key(path: Path, *, passphrase: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "test", "-f", str(path)], check=True)
    return path


def make_venv(root: Path, packages: Sequence[str] = TARGET_PACKAGES) -> None:
    """What `python3 -m venv ROOT/venv` and `pip install` leave: an interpreter that sees these packages only."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "venv")], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    link_site(root / "venv" / "lib" / version / "site-packages", packages)


class SshServer:
    """`sshd` on 127.0.0.1, and the home folder of somebody who may log in.

    Attributes:
        port: where it listens.
        home: has `.ssh/id_ed25519` and `.ssh/known_hosts`, as on a laptop that was here before.
    """

    def __init__(
        self, folder: Path, *, wrapper: Sequence[str] = (), options: Sequence[str] = (), path: str = ""
    ) -> None:
        self.folder, self.wrapper = folder, list(wrapper)
        there = folder / "home_there"  # not the real one: its shell's start-up files are none of the tests' business
        there.mkdir()
        self.environment = f"SetEnv HOME={there}" + (f" PATH={path}" if path else "")
        self.home = folder / "home"
        self.key = make_key(self.home / ".ssh" / "id_ed25519")
        self.host_key = make_key(folder / "host_key")
        shutil.copy(self.key.with_suffix(".pub"), folder / "authorized_keys")
        self.port = free_port()
        self.options = list(options)
        self.process: subprocess.Popen[bytes] | None = None
        self.trust(self.home / ".ssh" / "known_hosts")

    def trust(self, known_hosts: Path) -> None:
        """Write the server's host key into a file of trusted ones."""
        kind, key, *_ = self.host_key.with_suffix(".pub").read_text().split()
        known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def url(self, path: Path | str, *, user: str = USER) -> str:
        return f"ssh://{user}@127.0.0.1:{self.port}{path}"

    def start(self) -> None:
        config = self.folder / "sshd_config"
        lines = [
            f"Port {self.port}", "ListenAddress 127.0.0.1", f"HostKey {self.host_key}", "PidFile none",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}", "StrictModes no", "UsePAM no", "UseDNS no",
            "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password",
            "Subsystem sftp internal-sftp", "MaxStartups 200", "MaxSessions 100",
            "PrintMotd no", self.environment, *self.options,
        ]  # fmt: skip
        config.write_text("\n".join(lines) + "\n")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd locks its unprivileged half in
        sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert sshd, "there is no sshd: run scripts/system_packages.sh"
        log = (self.folder / "sshd.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [*self.wrapper, sshd, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_for(self._answers, f"sshd on port {self.port}")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as sock:
            return sock.recv(4) == b"SSH-"
        return False

    def children(self) -> list[psutil.Process]:
        """Processes of the sessions that are open now, commands included."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def commands(self) -> list[str]:
        """Command lines of what runs in the sessions."""
        found = []
        for child in self.children():
            with contextlib.suppress(psutil.Error):
                found.append(" ".join(child.cmdline()))
        return found

    def break_connections(self) -> int:
        """Kill what serves the open sessions, as a power cut would; how many processes that were."""
        killed = 0
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() == "sshd":
                    child.kill()
                    killed += 1
        return killed

    def stop(self) -> None:
        if self.process is None:
            return
        for process in [*self.children(), psutil.Process(self.process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(10)
        self.process = None


@contextlib.contextmanager
def ssh_server(
    folder: Path, *, wrapper: Sequence[str] = (), options: Sequence[str] = (), path: str = ""
) -> Iterator[SshServer]:
    """A running server: started by `wrapper`, with more lines in its configuration, another PATH for its users."""
    server = SshServer(folder, wrapper=wrapper, options=options, path=path)
    server.start()
    try:
        yield server
    finally:
        server.stop()
