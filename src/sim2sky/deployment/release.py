"""Makes a signed release of a bundle: one folder that any Linux target runs with Python and four packages.

bundle/...            the bundle, file by file
sim2sky.pyz           the flight runtime in one file, equal bytes from equal sources
install.pyz           the installer that judges the *next* release there
fly                   starts the flight agent: `current/fly --vehicle ...`
sim2sky-fly.service   a systemd unit to copy if wanted
release.json          what is listed and promised; release.sig: by whom
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.keys import SigningKey
from sim2sky.deployment.release_check import (
    BUNDLE_DIGITS,
    MANIFEST,
    SCHEMA,
    SIGNATURE,
    TrustStore,
    check_manifest,
    verify_release,
)
from sim2sky.errors import TargetError

__all__ = ["LIFETIME_S", "Release", "build_release", "installer_zip", "open_release", "runtime_files", "runtime_zip"]

LIFETIME_S = 90 * 86400
"""For so long after it was signed a release may be installed; what is installed flies on."""

RUNTIME_FILES = (
    "__init__.py",
    "errors.py",
    "agent/__init__.py",
    "agent/contract.py",
    "agent/layers.py",
    "agent/network_file.py",
    "agent/golden.py",
    "agent/bundle.py",
    "runtime/*.py",
    "telemetry/*.py",
    "deployment/__init__.py",
    "deployment/native_build.py",
    "deployment/native_trial.py",
    "deployment/test_inference.py",
    "deployment/toolchain.py",
)
"""What of sim2sky a flight computer gets to fly."""
INSTALLER_FILES = (
    "__init__.py",
    "errors.py",
    "deployment/__init__.py",
    "deployment/ed25519.py",
    "deployment/release_check.py",
    "deployment/target_state.py",
    "deployment/launch.py",
    "deployment/install.py",
    "runtime/__init__.py",
    "runtime/native_record.py",
)
"""And to install; standard library only, Python 3.6."""

FLY = """#!/bin/sh
# Starts the flight agent of the release that is committed here, with the Python it was tested with.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd -P)
root=$(dirname -- "$(dirname -- "$here")")
python=$(cat -- "$root/python/$(basename -- "$here")")
flags=-B
if [ -d "$root/site" ]; then flags="-I -S -B"; fi
# shellcheck disable=SC2086
exec "$python" $flags "$root/install.pyz" start --root "$root" current \\
    sim2sky.runtime.main fly --bundle '{release}/bundle' "$@"
"""
SERVICE = """# Offered, not installed. Put your folder, user and vehicle in, copy to /etc/systemd/system/, then:
#   sudo systemctl daemon-reload && sudo systemctl enable --now sim2sky-fly
[Unit]
Description=sim2sky flight agent
After=network.target

[Service]
ExecStart=/home/pi/sim2sky/current/fly --vehicle serial:/dev/serial0:921600
User=pi
Restart=no
LimitRTPRIO=80
LimitMEMLOCK=infinity

[Install]
WantedBy=multi-user.target
"""


def _sources(patterns: tuple[str, ...]) -> dict[str, bytes]:
    package = Path(__file__).resolve().parent.parent
    found: dict[str, bytes] = {}
    for pattern in patterns:
        matches = sorted(package.glob(pattern))
        if not matches:
            raise TargetError(f"this installation of sim2sky lacks {pattern}", hint="reinstall sim2sky")
        for path in matches:
            found[f"sim2sky/{path.relative_to(package).as_posix()}"] = path.read_bytes()
    return found


def runtime_files() -> dict[str, bytes]:
    """The subset of this package that a flight computer gets, by path."""
    return _sources(RUNTIME_FILES)


def _zip(files: Mapping[str, bytes], main: str) -> bytes:
    """A zipapp with equal bytes for equal files: sorted, stored, no time stamps."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted({**files, "__main__.py": main.encode()}.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def runtime_zip() -> bytes:
    """`sim2sky.pyz`: run by hand it is `sim2sky.runtime.main`."""
    return _zip(runtime_files(), "import sys\nfrom sim2sky.runtime.main import main\nsys.exit(main())\n")


def installer_zip() -> bytes:
    """`install.pyz`."""
    main = "import sys\nfrom sim2sky.deployment.install import main\nsys.exit(main(sys.argv[1:]))\n"
    return _zip(_sources(INSTALLER_FILES), main)


@dataclass(frozen=True, slots=True)
class Release:
    """A signed release on this machine.

    Attributes:
        path: its folder.
        name: what it is called on targets.
        manifest: what was signed.
        key_line: the public key that signed it.
    """

    path: Path
    name: str
    manifest: Mapping[str, Any]
    key_line: str

    def files(self) -> list[str]:
        """All files in the order in which they are to be copied: the signature last."""
        return [*sorted(self.manifest["files"]), MANIFEST, SIGNATURE]


def build_release(bundle: Bundle, out: Path, key: SigningKey, *, version: int, now_s: float) -> Release:
    """Write and sign a release, complete or not at all; what lay at `out` is replaced.

    Args:
        bundle: verified.
        out: the folder to make.
        key: signs.
        version: above that of every release before it.
        now_s: unix time; the release may be installed for `LIFETIME_S` from then on.

    Raises:
        BundleError: the bundle changed on disk.
        TargetError: the folder cannot be written, or the release is not one that a target would accept.
    """
    contents = {f"bundle/{name}": bundle.read(name) for name in bundle.files}
    contents["bundle/bundle.json"] = (bundle.path / "bundle.json").read_bytes()
    contents |= {"sim2sky.pyz": runtime_zip(), "install.pyz": installer_zip()}
    contents |= {"fly": FLY.encode(), "sim2sky-fly.service": SERVICE.encode()}
    listed = {n: {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d)} for n, d in contents.items()}
    name = f"{bundle.digest[:BUNDLE_DIGITS]}-{version}"
    manifest = rfc8785.dumps(
        {
            "schema": SCHEMA,
            "release": name,
            "agent": bundle.agent,
            "bundle_digest": bundle.digest,
            "contract_hash": bundle.contract.hash,
            "golden_hash": listed["bundle/golden.npz"]["sha256"],
            "profile": bundle.profile,
            "version": version,
            "expires": int(now_s) + LIFETIME_S,
            "key": key.public.hex(),
            "files": listed,
        }
    )
    check_manifest(manifest)
    contents |= {MANIFEST: manifest, SIGNATURE: key.public + key.sign(manifest)}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            fresh = Path(temporary) / "release"
            for relative, data in contents.items():
                path = fresh / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            (fresh / "fly").chmod(0o755)
            if os.path.lexists(out):
                out.rename(Path(temporary) / "old")
            fresh.rename(out)
    except OSError as error:
        raise TargetError(
            f"cannot write the release {out}: {error.strerror or error}", hint="check that the disk is not full"
        ) from error
    return open_release(out, key)


def open_release(path: Path, key: SigningKey) -> Release:
    """A release made earlier, verified.

    Raises:
        TargetError: it is incomplete, changed, or signed by another key.
    """
    try:
        manifest = verify_release(str(path), TrustStore({key.public: key.name}, set()))
    except OSError as error:
        raise TargetError(f"cannot read the release {path}: {error.strerror}") from error
    return Release(path, manifest["release"], manifest, key.line)
