"""`sim2sky target`: what is installed on a target, back to the release before, and cleaning up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from sim2sky.errors import EXIT_FAIL, EXIT_PASS

__all__ = ["app"]

app = cyclopts.App(name="target", help="What is installed on a target, and going back.", help_format="plaintext")

Json = Annotated[bool, Parameter(name="--json", negative=(), help="print as JSON")]


@app.command
def status(target: str, /, *, json: Json = False) -> int:
    """Say what is installed, after every byte of it was read and compared; exit code 1 where one differs.

    Parameters
    ----------
    target
        local:FOLDER, ssh://user@host[:port]/path or mcu:emulated[:FOLDER]
    """
    from sim2sky.deployment.chip_target import is_chip
    from sim2sky.deployment.targets import open_target

    if is_chip(target):
        from sim2sky.cli_chip import show_status

        return show_status(target, as_json=json)
    where = open_target(target)
    found = where.status()
    healthy = not found["problems"]
    if json:
        from sim2sky.cli_commands import print_json

        print_json({"verdict": "pass" if healthy else "fail", "target": where.name, **found})
    else:
        print(status_text(where.name, found))
    return EXIT_PASS if healthy else EXIT_FAIL


def status_text(name: str, found: dict[str, Any]) -> str:
    """A status as people read it."""
    lines = [f"{name}", f"  active    {found['active'] or 'nothing'}"]
    if "agent" in found:
        until = datetime.fromtimestamp(found["expires"], UTC).strftime("%Y-%m-%d")
        lines += [
            f"  agent     {found['agent']}, bundle {found['bundle_digest'][:12]}, profile {found['profile']}",
            f"  version   {found['version']} (highest seen {found['highest_version']})",
            f"  expiry    {'expired' if found['expired'] else 'may be installed until'} {until}",
            f"  signed by {found['signed_by']}",
            f"  python    {found['python']}",
        ]
    if "native" in found:
        native = found["native"]
        lines.append(f"  policy    {'compiled C' if native['native'] else 'onnxruntime'} flies: {native['why']}")
    lines += [
        f"  previous  {found['previous'] or 'none'}",
        f"  trusts    {', '.join(found['trusted_keys']) or 'no key'}",
    ]
    if found["revoked_keys"]:
        lines.append(f"  revoked   {', '.join(found['revoked_keys'])}")
    if found["installing"]:
        lines.append(f"  unfinished installation of {found['installing']} ({found['state']}); the next one undoes it")
    lines += [f"✗ {problem}" for problem in found["problems"]]
    if not found["problems"]:
        lines.append(f"✓ {found['files']} files read, every byte as signed")
    return "\n".join(lines)


@app.command
def rollback(target: str, /, *, json: Json = False) -> int:
    """Make the previous release active again, after it was verified; a second time goes forward again.

    Parameters
    ----------
    target
        local:FOLDER, ssh://user@host[:port]/path or mcu:emulated[:FOLDER]
    """
    from sim2sky.cli_chip import open_emulated
    from sim2sky.deployment.chip_target import is_chip
    from sim2sky.deployment.targets import open_target

    where = open_emulated(target) if is_chip(target) else open_target(target)
    done = where.rollback()
    if json:
        from sim2sky.cli_commands import print_json

        print_json({"verdict": "pass", "target": where.name, **done})
    else:
        print(f"{where.name}: active is {done['release']}, was {done['left']}")
    return EXIT_PASS


@app.command
def gc(target: str, /, *, json: Json = False) -> int:
    """Remove what is neither the active nor the previous release, e.g. what a broken upload left.

    Parameters
    ----------
    target
        local:FOLDER or ssh://user@host[:port]/path
    """
    from sim2sky.deployment.targets import open_target

    where = open_target(target)
    removed = where.gc()
    if json:
        from sim2sky.cli_commands import print_json

        print_json({"verdict": "pass", "target": where.name, "removed": removed})
    else:
        print(f"{where.name}: removed {', '.join(removed) or 'nothing'}")
    return EXIT_PASS
