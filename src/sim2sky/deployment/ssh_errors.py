"""What goes wrong on an SSH connection, in plain words and with the command that helps."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from sim2sky.errors import TargetError

__all__ = ["HostKeyWatcher", "Tell", "connection_error", "is_broken", "transfer_error"]


@dataclass(frozen=True, slots=True)
class Tell:
    """What the messages name: the target, who logs in where, and the files given by the user."""

    name: str
    user: str
    host: str
    port: int
    key: Path | None
    known_hosts: Path | None

    @property
    def file(self) -> str:
        """The file of host keys that a remedy edits."""
        return str(self.known_hosts or "~/.ssh/known_hosts")

    @property
    def login(self) -> str:
        """As `ssh` takes it."""
        return f"{f'-p {self.port} ' if self.port != 22 else ''}{self.user}@{self.host}"


class HostKeyWatcher:
    """Remembers a host key that was refused, so that the message can show its fingerprint.

    Args:
        files: the files of trusted host keys.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self.refused: asyncssh.SSHKey | None = None
        self.changed = False
        self._files = list(files)

    def client(self) -> asyncssh.SSHClient:
        """What asyncssh asks about a key that is in none of the files: never trusted."""
        watcher = self

        class Client(asyncssh.SSHClient):
            def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
                watcher.refused = key
                known = asyncssh.match_known_hosts(
                    watcher._files or ([], [], []), host, addr, None if port == 22 else port
                )
                watcher.changed = bool(known[0])
                return False

        return Client()


def connection_error(tell: Tell, watcher: HostKeyWatcher, error: Exception, timeout_s: float) -> TargetError:
    """Why no connection was made."""
    message, hint = _reason(tell, watcher, error, timeout_s)
    return TargetError(f"target {tell.name}: {message}", hint=hint)


def _reason(tell: Tell, watcher: HostKeyWatcher, error: Exception, timeout_s: float) -> tuple[str, str]:
    host = f"[{tell.host}]:{tell.port}" if tell.port != 22 else tell.host
    if watcher.refused is not None:
        fingerprint = watcher.refused.get_fingerprint()
        kind = watcher.refused.get_algorithm().removeprefix("ssh-")
        accept = f"ssh-keyscan -p {tell.port} {tell.host} >> {tell.file}"
        if watcher.changed:
            return (
                f"its host key CHANGED; it now shows {kind} {fingerprint}: another machine may be answering",
                f"only if it was installed anew: ssh-keygen -f {tell.file} -R '{host}' && {accept}",
            )
        return (
            f"its host key is unknown: {kind} {fingerprint}",
            f"compare it with `ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub` there, then: {accept}",
        )
    match error:
        case asyncssh.HostKeyNotVerifiable():
            return f"its host key was refused: {error.reason}", f"see {tell.file}"
        case asyncssh.PermissionDenied():
            return (
                f"permission denied for user '{tell.user}' with {tell.key or 'the keys at hand'}",
                f"check the user's name; ssh-copy-id {tell.login}; a key with a passphrase: ssh-add KEY",
            )
        case asyncssh.KeyImportError() | asyncssh.KeyEncryptionError() | ValueError():
            return f"cannot use the key {tell.key or 'at hand'}: {error}", "a key with a passphrase: ssh-add KEY"
        case TimeoutError():
            return (
                f"no SSH answer on port {tell.port} within {timeout_s:g} s",
                "is it switched on and on this network? is the port right?",
            )
        case ConnectionRefusedError():
            return (
                f"connection refused on port {tell.port}",
                "is the SSH server running there (systemctl status ssh)? is the port right?",
            )
        case asyncssh.ConnectionLost() | asyncssh.ProtocolError() | asyncssh.ProtocolNotSupported() | ConnectionError():
            return (
                f"port {tell.port} closed the connection or does not speak SSH: {error}",
                f"try: ssh {tell.login}",
            )
        case asyncssh.Error():
            return f"no connection: {error.reason}", f"try: ssh {tell.login}"
        case socket.gaierror():
            return f"unknown host '{tell.host}'", "check the name, or use the address"
        case OSError() if tell.key is not None and error.filename == str(tell.key):
            return f"cannot read the key {tell.key}: {error.strerror}", "check the path"
        case _:
            return f"no connection: {getattr(error, 'strerror', None) or error}", "check the network"


def is_broken(error: Exception) -> bool:
    """The connection is gone, not only this operation."""
    lost = (asyncssh.DisconnectError, asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, ConnectionError)
    return isinstance(error, lost)


def transfer_error(name: str, doing: str, error: Exception) -> TargetError:
    """Why something failed on a connection that stood."""
    match error:
        case asyncssh.SFTPPermissionDenied():
            return TargetError(
                f"target {name}: {doing}: permission denied", hint="name a folder that this user may write"
            )
        case asyncssh.SFTPNoSuchFile():
            return TargetError(f"target {name}: {doing}: no such file", hint="deploy again")
        case asyncssh.ChannelListenError():
            return TargetError(
                f"target {name}: {doing}: its SSH server refuses to forward a port",
                hint="HIL flies through the SSH connection: set `AllowTcpForwarding yes` in its sshd_config",
            )
        case _ if is_broken(error):
            return TargetError(
                f"target {name}: {doing}: the connection broke: {getattr(error, 'reason', '') or error}",
                hint="the same command goes on from where it stopped",
            )
        case asyncssh.Error():
            return TargetError(f"target {name}: {doing}: {error.reason}")
        case TimeoutError():
            return TargetError(f"target {name}: {doing}: no answer in time", hint="check the link and try again")
        case _:
            return TargetError(f"target {name}: {doing}: {getattr(error, 'strerror', None) or error}")
