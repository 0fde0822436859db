"""What `sim2sky target` and `sim2sky test-inference` say of a microcontroller."""

from __future__ import annotations

from sim2sky.cli_commands import print_json
from sim2sky.deployment.chip_target import EmulatedTarget, open_chip
from sim2sky.errors import EXIT_FAIL, EXIT_PASS, NotSupportedError
from sim2sky.hil.chip import require_golden

__all__ = ["open_emulated", "show_status", "test_chip"]


def open_emulated(target: str) -> EmulatedTarget:
    """The emulated board of a description.

    Raises:
        NotSupportedError: a real board, which holds one firmware, put there by its owner.
        ConfigError: no target's description.
    """
    where = open_chip(target)
    if not isinstance(where, EmulatedTarget):
        raise NotSupportedError(f"slots for firmware on {target}", hint="sim2sky test-inference says what runs there")
    return where


def show_status(target: str, *, as_json: bool) -> int:
    """`sim2sky target status`."""
    where = open_emulated(target)
    found = where.status()
    healthy = not found["problems"]
    if as_json:
        print_json({"verdict": "pass" if healthy else "fail", "target": where.name, **found})
        return EXIT_PASS if healthy else EXIT_FAIL
    print(f"{where.name} in {where.folder}")
    print(f"  active    {found['active'] or 'nothing'}")
    print(f"  previous  {found['previous'] or 'none'}")
    for key, value in found["firmware"].items():
        print(f"  {key}: {value}")
    for problem in found["problems"]:
        print(f"✗ {problem}")
    return EXIT_PASS if healthy else EXIT_FAIL


def test_chip(target: str, *, as_json: bool) -> int:
    """`sim2sky test-inference`: identify, and replay the golden vectors on the chip."""
    where = open_chip(target)
    with where.run() as link:
        identity = link.identify()
        if isinstance(where, EmulatedTarget):
            require_golden(link, where.bundle())
        test = link.self_test()
    verdict = "fail" if test.different else "pass"
    if as_json:
        print_json(
            {
                "verdict": verdict,
                "bundle_digest": identity.bundle_digest,
                "contract_hash": identity.contract_hash,
                "golden_vectors": test.compared,
                "different": test.different,
            }
        )
    else:
        print(f"{'✗ FAIL' if test.different else '✓ PASS'} - bundle {identity.bundle_digest[:12]} on {where.name}")
        found = f"{test.different} of them differ" if test.different else "all to the last bit"
        print(f"  golden vectors: {test.compared}, {found}")
    return EXIT_FAIL if test.different else EXIT_PASS
