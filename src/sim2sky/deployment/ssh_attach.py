"""Keeps a program running on a target for as long as this process lives:

`python -m sim2sky.deployment.ssh_attach URL -- COMMAND...`

What a HIL run starts in place of the flight agent. In COMMAND, `--link tcp:127.0.0.1:PORT` is a port of this machine:
the agent gets a port of its own that leads here through the SSH connection. `--log FILE` is a file of this machine: the
agent writes one over there, which is fetched at the end. `--excitation FILE` is one, too, and is brought there.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from sim2sky.deployment.ssh import SshTransport
from sim2sky.deployment.ssh_session import SshAccess
from sim2sky.errors import ConfigError, Sim2SkyError
from sim2sky.runtime.link import parse_address

__all__ = ["attach", "main"]

FILES = {"--log": "flight.h5", "--excitation": "plan.json"}
"""Options that name a file of this machine, and how it is called over there."""

KEEPER = """
import os, shutil, subprocess, sys, threading, time
folder, argv = sys.argv[1], sys.argv[2:]
try:
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
except OSError as error:
    sys.exit("%s: %s" % (argv[0], error.strerror))
gone = threading.Event()

def watch():
    while os.read(0, 4096):
        pass
    gone.set()
    child.terminate()
    try:
        child.wait(3)
    except subprocess.TimeoutExpired:
        child.kill()

threading.Thread(target=watch, daemon=True).start()
code = child.wait()
# An agent may notice the broken tunnel before we notice the broken connection; nobody will fetch its log then.
if code and gone.wait(1) and folder:
    until = time.time() + 10
    while os.path.exists(folder) and time.time() < until:  # its recorder may still be writing
        shutil.rmtree(folder, True)
        time.sleep(0.1)
sys.exit(code if code >= 0 else 128 - code)
"""
"""Runs on the target (Python 3.6): the agent must not outlive the connection, which ends standard input."""


def attach(transport: SshTransport, command: Sequence[str]) -> int:
    """Run a command on the target to its end; its exit code.

    Raises:
        ConfigError: it has no TCP link.
        TargetError: the target cannot be reached, or the connection broke; the command has ended or will.
    """
    argv = list(command)
    try:
        where = argv.index("--link") + 1
        link = parse_address(argv[where])
    except (ValueError, IndexError):
        raise ConfigError("the command names no --link") from None
    if link.kind != "tcp":
        raise ConfigError(f"'{link}' cannot go through an SSH connection", hint="hil_link: tcp")
    folder, here = "", {name: argv.index(name) + 1 for name in FILES if name in argv[:-1]}
    if here:
        folder = f"logs/hil-{secrets.token_hex(6)}"
        transport.session.make_folder(f"{transport.root}/{folder}")
    local: dict[str, Path] = {}
    for name, at in here.items():
        local[name], argv[at] = Path(argv[at]), f"{transport.root}/{folder}/{FILES[name]}"
    if "--excitation" in local:
        transport.put_file(local["--excitation"], f"{folder}/{FILES['--excitation']}")

    keeper = [*transport.python(), "-c", KEEPER, f"{transport.root}/{folder}" if folder else ""]

    def with_port(port: int) -> list[str]:
        argv[where] = f"tcp:127.0.0.1:{port}"
        return [*keeper, *argv]

    def say(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    code = transport.session.attach(link.port, with_port, say)
    log = f"{folder}/{FILES['--log']}"
    if "--log" in local and transport.run(["test", "-e", log]).returncode == 0:
        transport.get_file(log, local["--log"])
    if folder:
        transport.run(["rm", "-rf", folder])
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit code of the command, or of the error."""
    parser = argparse.ArgumentParser(prog="ssh_attach", description="run a command on a target")
    parser.add_argument("--known-hosts", type=Path, help="file of trusted host keys")
    parser.add_argument("--key", type=Path, help="private key")
    parser.add_argument("url", help="ssh://user@host[:port]/path")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    try:
        transport = SshTransport(options.url, access=SshAccess(options.known_hosts, options.key))
        return attach(transport, command)
    except Sim2SkyError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
