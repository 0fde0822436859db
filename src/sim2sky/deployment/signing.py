"""Signs a bundle's release once, so that every target and every further attempt gets the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.keys import DEFAULT_KEY, KeyRing, SigningKey
from sim2sky.deployment.release import Release, build_release, installer_zip, open_release, runtime_zip
from sim2sky.errors import TargetError

__all__ = ["find_signer", "signed_release"]

MARGIN_S = 86400  # a release that expires sooner is signed anew


def find_signer(name: str, say: Callable[[str], None]) -> SigningKey:
    """The key to sign with; the default one is made where there is none yet.

    Raises:
        ConfigError: there is no such key, or others can read it.
    """
    ring = KeyRing()
    if name == DEFAULT_KEY and DEFAULT_KEY not in ring.names():
        key = ring.new()
        say(f"made the signing key {key.id}, kept in {ring.folder}")
        return key
    return ring.load(name)


def signed_release(
    bundle: Bundle, out: Path, key: SigningKey, *, now_s: float, above: int = 0, fresh: bool = False
) -> Release:
    """The release at `out` if it is this bundle's, by this key, of these sources and still good; else a new one there.

    Args:
        bundle: what it holds.
        out: where it lies.
        key: signs.
        now_s: unix time.
        above: the highest version its target has seen; an older release is signed anew.
        fresh: sign anew in any case.

    Raises:
        ConfigError, TargetError: the counter of versions or the folder cannot be written.
    """
    if not fresh and out.is_dir():
        try:
            found = open_release(out, key)
        except TargetError:
            pass
        else:
            files, good = found.manifest["files"], found.manifest["expires"] > now_s + MARGIN_S
            same = found.manifest["bundle_digest"] == bundle.digest and all(
                files[name]["sha256"] == hashlib.sha256(data).hexdigest()
                for name, data in (("sim2sky.pyz", runtime_zip()), ("install.pyz", installer_zip()))
            )
            if same and good and found.manifest["version"] >= above:
                return found
    version = max(KeyRing().next_version(key.name, now_s=now_s), above + 1)
    return build_release(bundle, out, key, version=version, now_s=now_s)
