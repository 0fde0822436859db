"""One SSH connection behind plain function calls: commands, uploads that resume, downloads, a tunnel back.

Host keys are always checked and passwords never used. Whatever asyncssh or the far side raises becomes a TargetError
here and nowhere else.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import hashlib
import logging
import math
import os
import shlex
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import asyncssh

from sim2sky.deployment.ssh_address import SshAccess, SshAddress
from sim2sky.deployment.ssh_errors import HostKeyWatcher, Tell, connection_error, is_broken, transfer_error
from sim2sky.deployment.transport import Completed
from sim2sky.errors import TargetError

__all__ = ["Limits", "SshSession"]

T = TypeVar("T")
CHUNK = 1 << 18
MAX_OUTPUT = 16 << 20
ENVIRONMENT = ("env", "OMP_NUM_THREADS=1", "LC_ALL=C.UTF-8")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the far side may take, s: to let us in, and to take or give the next piece of a file.

    A connection that answers nothing, not even the keepalives, is broken after `keepalive_s * 3`.
    """

    connect_s: float = 15.0
    idle_s: float = 30.0
    keepalive_s: float = 5.0


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all sessions of this process, in a thread of its own."""
    loop = asyncio.new_event_loop()
    # A broken connection is told once, by the call that waited for it, not by asyncssh's inner tasks as well.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    loop.set_exception_handler(lambda _loop, _context: None)
    thread = threading.Thread(target=loop.run_forever, name="ssh", daemon=True)
    thread.start()

    def end() -> None:
        with contextlib.suppress(KeyboardInterrupt, TimeoutError, RuntimeError):  # the process ends already
            asyncio.run_coroutine_threadsafe(_end_tasks(), loop).result(2.0)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(2.0)
            loop.close()

    atexit.register(end)
    return loop


async def _end_tasks() -> None:
    """Cancel what still runs: left to the interpreter's end it would complain that its loop is closed."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _stands(connection: asyncssh.SSHClientConnection) -> bool:
    """Whether a connection can still be used; one whose transport is gone calls itself closed only a moment later."""
    return not connection.is_closed() and getattr(connection, "_transport", None) is not None


def _wait(work: Coroutine[Any, Any, T]) -> T:
    """Result of a coroutine; Ctrl-C cancels it."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


class SshSession:
    """A connection to one target, opened when it is first needed and again where it broke between two calls.

    Args:
        address: where.
        access: key and trusted host keys.
        limits: time-outs.
    """

    def __init__(self, address: SshAddress, access: SshAccess | None = None, limits: Limits | None = None) -> None:
        self.address, self.access, self.limits = address, access or SshAccess(), limits or Limits()
        self.name = str(address)
        self.bytes_sent = 0
        """Of files, so far: what a resumed upload did not send again is not counted."""
        self._connection: asyncssh.SSHClientConnection | None = None
        self._sftp: asyncssh.SFTPClient | None = None

    # Plain calls -----------------------------------------------------------------------------------------------------

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 60.0) -> Completed:
        """Run a program to its end; standard input is `stdin`, then ends.

        Raises:
            TargetError: not reachable, ended by a signal, or not ended within `timeout_s`.
        """
        return _wait(self._run(argv, stdin, timeout_s))

    def upload(self, local: Path, remote: str) -> None:
        """Copy a file; `remote` appears complete, synced and with the right content, or not at all.

        What an earlier call sent of the same content stays in a `.part` file beside it and is not sent again.

        Raises:
            TargetError: not reachable, no space, no permission, or damaged on the way.
        """
        _wait(self._upload(local, remote))

    def download(self, remote: str, local: Path) -> None:
        """Copy a file back; `local` appears complete or not at all.

        Raises:
            TargetError: not reachable, no such file, or it cannot be read or written.
        """
        _wait(self._download(remote, local))

    def make_folder(self, folder: str) -> list[str]:
        """Make a folder and those above it; the names in it.

        Raises:
            TargetError: not reachable, or no permission.
        """
        return _wait(self._make_folder(folder))

    def home(self) -> str:
        """The user's folder on the target. Raises TargetError."""
        return _wait(self._home())

    def attach(self, port: int, argv_of: Callable[[int], Sequence[str]], on_output: Callable[[bytes], object]) -> int:
        """Run a program that may call back to a TCP port of this machine; the exit code.

        Its standard input stays open, and empty, for as long as the connection lives.

        Args:
            port: on 127.0.0.1 here.
            argv_of: the program, given the port under which the target reaches it (on its own 127.0.0.1).
            on_output: told what it prints.

        Raises:
            TargetError: not reachable, no tunnel allowed, or the connection broke.
        """
        return _wait(self._attach(port, argv_of, on_output))

    def close(self) -> None:
        """Close the connection; the session can be used again."""
        _wait(self._close())

    # What they do ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _connected(self, doing: str) -> AsyncGenerator[asyncssh.SSHClientConnection, None]:
        """The open connection; what goes wrong on it is told in our words."""
        if self._connection is None or not _stands(self._connection):
            self._sftp, self._connection = None, await self._connect()
        try:
            yield self._connection
        except (asyncssh.Error, asyncssh.ChannelListenError, OSError) as error:
            if is_broken(error):
                await self._close()
            raise transfer_error(self.name, doing, error) from error

    async def _connect(self) -> asyncssh.SSHClientConnection:
        where, files = self.address, self.access.trusted()
        watcher = HostKeyWatcher(files)
        try:
            return await asyncssh.connect(
                where.host,
                where.port or (),
                username=where.user,
                # Never the configuration's: `UserKnownHostsFile none` would switch the check off.
                known_hosts=files or ([], [], []),
                client_keys=[str(self.access.key)] if self.access.key else (),
                agent_path=None if self.access.key else (),
                preferred_auth="publickey",
                client_factory=watcher.client,
                connect_timeout=self.limits.connect_s,
                keepalive_interval=self.limits.keepalive_s,
                keepalive_count_max=3,
            )
        except (asyncssh.Error, OSError, ValueError) as error:
            tell = Tell(self.name, where.user, where.host, where.port or 22, self.access.key, self.access.known_hosts)
            raise connection_error(tell, watcher, error, self.limits.connect_s) from error

    async def _files(self, connection: asyncssh.SSHClientConnection) -> asyncssh.SFTPClient:
        if self._sftp is None:
            self._sftp = await asyncio.wait_for(connection.start_sftp_client(), self.limits.connect_s)
        return self._sftp

    async def _close(self) -> None:
        connection, self._connection, self._sftp = self._connection, None, None
        if connection is not None:
            connection.close()
            with contextlib.suppress(asyncssh.Error, OSError, TimeoutError):
                await asyncio.wait_for(connection.wait_closed(), 2.0)

    async def _make_folder(self, folder: str) -> list[str]:
        async with self._connected(f"making {folder}") as connection:
            sftp = await self._files(connection)
            try:
                await sftp.makedirs(folder, exist_ok=True)
                names = await sftp.listdir(folder)
            except asyncssh.SFTPFailure as error:
                raise await self._why_failed(sftp, PurePosixPath(folder), 0, error) from error
        return sorted(str(n) for n in names if n not in (".", ".."))

    async def _home(self) -> str:
        async with self._connected("asking for the home folder") as connection:
            return str(await (await self._files(connection)).realpath("."))

    async def _run(self, argv: Sequence[str], stdin: bytes | None, timeout_s: float) -> Completed:
        # Ended there, too, where the connection dies or the server passes no signals on (OpenSSH does not for root).
        command = shlex.join(["timeout", "-k", "2", str(math.ceil(timeout_s) + 1), *ENVIRONMENT, *argv])
        async with self._connected("running a command") as connection:
            process = await connection.create_process(command, encoding=None)
            try:
                async with asyncio.timeout(timeout_s):
                    if stdin:
                        process.stdin.write(stdin)
                    with contextlib.suppress(BrokenPipeError):
                        process.stdin.write_eof()
                    out, err = await asyncio.gather(self._all(process.stdout), self._all(process.stderr))
                    await process.wait_closed()
            except TimeoutError as error:
                raise TargetError(f"target {self.name}: a command did not end within {timeout_s:g} s") from error
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed: this process ends, and so does the other
                    process.close()
        return Completed(self._exit_code(process), out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    def _exit_code(self, process: asyncssh.SSHClientProcess[bytes]) -> int:
        status, ended = process.exit_status, process.exit_signal
        if ended is None and status is None:
            raise TargetError(
                f"target {self.name}: the connection broke while a command ran",
                hint="the same command goes on from where it stopped",
            )
        # `timeout`, like a shell, tells the signal that ended its child as 128 + its number.
        number = (status or 0) - 128
        by = f"SIG{ended[0]}" if ended else signal.Signals(number).name if number in set(signal.Signals) else ""
        if by:
            raise TargetError(
                f"target {self.name}: a command was ended by {by}",
                hint="the previous release stays active; deploy again",
            )
        return status or 0

    async def _all(self, reader: asyncssh.SSHReader[bytes]) -> bytes:
        parts, size = [], 0
        while data := await reader.read(CHUNK):
            parts.append(data)
            if (size := size + len(data)) > MAX_OUTPUT:
                raise TargetError(f"target {self.name}: a command printed more than {MAX_OUTPUT >> 20} MiB")
        return b"".join(parts)

    async def _upload(self, local: Path, remote: str) -> None:
        data = await asyncio.to_thread(local.read_bytes)
        digest = hashlib.sha256(data).hexdigest()
        final = PurePosixPath(remote)
        part = final.with_name(f".{digest[:32]}.part")
        async with self._connected(f"copying to {remote}") as connection:
            sftp = await self._files(connection)
            try:
                if await self._size(sftp, final) == len(data) and await self._sha256(final, len(data)) == digest:
                    return
                await sftp.makedirs(str(final.parent), exist_ok=True)
                for _ in range(2):
                    await self._send(sftp, data, part)
                    if await self._sha256(part, len(data)) == digest:
                        await sftp.posix_rename(str(part), str(final))
                        return
                    await sftp.remove(str(part))  # what lay there was not the beginning of this file
            except asyncssh.SFTPFailure as error:
                raise await self._why_failed(sftp, final.parent, len(data), error) from error
        raise TargetError(f"target {self.name}: {remote} was damaged on the way (sha256), twice", hint="check its disk")

    async def _send(self, sftp: asyncssh.SFTPClient, data: bytes, part: PurePosixPath) -> None:
        size = await self._size(sftp, part)
        start = min(size or 0, len(data))
        async with sftp.open(str(part), "r+b" if size is not None else "wb") as file:
            if size is not None and size > start:
                await file.truncate(start)
            for offset in range(start, len(data), CHUNK):
                piece = data[offset : offset + CHUNK]
                try:
                    await asyncio.wait_for(file.write(piece, offset), self.limits.idle_s)
                except TimeoutError as error:
                    await self._close()
                    raise TargetError(
                        f"target {self.name}: took nothing for {self.limits.idle_s:g} s while copying to {part.parent}",
                        hint="check the link; the same command goes on from where it stopped",
                    ) from error
                self.bytes_sent += len(piece)
            await asyncio.wait_for(file.fsync(), self.limits.idle_s)

    async def _size(self, sftp: asyncssh.SFTPClient, path: PurePosixPath) -> int | None:
        try:
            return (await sftp.lstat(str(path))).size
        except asyncssh.SFTPNoSuchFile:
            return None

    async def _sha256(self, path: PurePosixPath, size: int) -> str:
        done = await self._run(["sha256sum", "--", str(path)], None, 60.0 + size / 1e6)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise TargetError(f"target {self.name}: cannot verify {path}: {reason}", hint="it needs sha256sum")
        return done.stdout.removeprefix("\\")[:64]  # sha256sum marks names with special characters

    async def _why_failed(
        self, sftp: asyncssh.SFTPClient, folder: PurePosixPath, size: int, error: asyncssh.SFTPFailure
    ) -> TargetError:
        """SFTP 3 has one word, "failure", for a full disk and a read-only one: ask the file system."""
        with contextlib.suppress(asyncssh.Error):
            while await self._size(sftp, folder) is None:
                folder = folder.parent
            disk = await sftp.statvfs(str(folder))
            if (disk.flags or 0) & os.ST_RDONLY:
                return TargetError(
                    f"target {self.name}: {folder} is on a read-only file system",
                    hint="remount it writable, or name a folder elsewhere",
                )
            free = (disk.bavail or 0) * (disk.frsize or 0)
            if free < size:
                return TargetError(
                    f"target {self.name}: no space left in {folder}: {free / 1e6:.1f} of {size / 1e6:.1f} MB",
                    hint="free some space on its disk; `sim2sky target gc` removes old releases",
                )
        return transfer_error(self.name, f"copying to {folder}", error)

    async def _download(self, remote: str, local: Path) -> None:
        temporary = local.with_name(f".{local.name}.tmp")
        try:
            async with self._connected(f"reading {remote}") as connection:
                sftp = await self._files(connection)
                with temporary.open("wb") as out:
                    async with sftp.open(remote, "rb") as file:
                        offset = 0
                        while piece := await asyncio.wait_for(file.read(CHUNK, offset), self.limits.idle_s):
                            out.write(piece)
                            offset += len(piece)
                    out.flush()
                    os.fsync(out.fileno())
                temporary.replace(local)
        finally:
            temporary.unlink(missing_ok=True)

    async def _attach(
        self, port: int, argv_of: Callable[[int], Sequence[str]], on_output: Callable[[bytes], object]
    ) -> int:
        async with self._connected("running the flight agent") as connection:
            listener = await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", port)
            command = shlex.join([*ENVIRONMENT, *argv_of(listener.get_port())])
            process = await connection.create_process(command, encoding=None, stderr=asyncssh.STDOUT)
            try:
                while data := await process.stdout.read(CHUNK):
                    on_output(data)
                await process.wait_closed()
            finally:
                process.close()
                listener.close()
        return self._exit_code(process)
