"""`sim2sky keys`: the keys that sign releases, and which targets trust them."""

from __future__ import annotations

import sys
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from sim2sky.errors import EXIT_PASS

__all__ = ["app"]

app = cyclopts.App(name="keys", help="Keys that sign releases, and which targets trust them.", help_format="plaintext")

Json = Annotated[bool, Parameter(name="--json", negative=(), help="print as JSON")]


@app.command
def new(name: str = "default", /) -> int:
    """Make a signing key; an existing one is never overwritten.

    Parameters
    ----------
    name
        How it is called from now on.
    """
    from sim2sky.deployment.keys import KeyRing

    ring = KeyRing()
    key = ring.new(name)
    print(f"key {key.id} ({name}): {ring.folder / name}.key, to be kept secret; {name}.pub, to be given away")
    return EXIT_PASS


@app.command(name="list")
def list_keys(*, json: Json = False) -> int:
    """The keys on this machine."""
    from sim2sky.deployment.keys import KeyRing

    ring = KeyRing()
    keys = [ring.load(name) for name in ring.names()]
    if json:
        from sim2sky.cli_commands import print_json

        print_json({"folder": str(ring.folder), "keys": {k.name: k.public.hex() for k in keys}})
        return EXIT_PASS
    for key in keys:
        print(f"{key.id}  {key.name}")
    if not keys:
        print(f"no keys in {ring.folder}; the first deployment makes one, or: sim2sky keys new", file=sys.stderr)
    return EXIT_PASS


@app.command
def trust(key: str, target: str, /) -> int:
    """Let a target accept releases signed by a key.

    Parameters
    ----------
    key
        Name of a key of this machine, or someone's .pub file.
    target
        local:FOLDER or ssh://user@host[:port]/path
    """
    from sim2sky.deployment.keys import KeyRing
    from sim2sky.deployment.targets import open_target

    line, where = KeyRing().public_line(key), open_target(target)
    changed = where.trust(line)
    print(f"{where.name} {'trusts' if changed else 'trusted already'} key {_shown(line)}")
    return EXIT_PASS


@app.command
def revoke(key: str, target: str, /) -> int:
    """Let a target never accept a key again, neither for a new release nor for what is installed. For good.

    Parameters
    ----------
    key
        Name of a key of this machine, or someone's .pub file.
    target
        local:FOLDER or ssh://user@host[:port]/path
    """
    from sim2sky.deployment.keys import KeyRing
    from sim2sky.deployment.targets import open_target

    line, where = KeyRing().public_line(key), open_target(target)
    changed = where.revoke(line)
    print(f"{where.name} {'revoked' if changed else 'had revoked'} key {_shown(line)}")
    if where.status()["problems"]:
        print("what is installed there was signed with it and does not start any more: deploy with another key")
    return EXIT_PASS


def _shown(line: str) -> str:
    _, public, name = line.split()
    return f"{public[:16]} ({name})"
