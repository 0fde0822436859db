"""The bundle: an immutable folder with everything a target needs to fly an agent, named by its digest.

Imports numpy and the standard library only: the flight computer opens bundles too. Accidental damage of any byte is
found by `open_bundle`; deliberate change of the manifest changes the digest, which the caller compares.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim2sky.agent.contract import Contract, canonical_json
from sim2sky.agent.golden import GoldenVectors, golden_from_bytes
from sim2sky.agent.layers import Network
from sim2sky.agent.network_file import network_from_bytes
from sim2sky.errors import AgentError, BundleError, ContractError, ExportError

__all__ = ["MANIFEST", "SCHEMA", "Bundle", "open_bundle", "write_bundle"]

SCHEMA = 1
MANIFEST = "bundle.json"
CONTRACT = "contract.json"
NETWORK = "network.npz"
GOLDEN = "golden.npz"
SAFETY = "safety.json"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_HEX = re.compile(r"[0-9a-f]{64}")
_FIELDS = ("schema", "agent", "contract_hash", "formats", "active", "profile", "provenance", "files")


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A verified bundle.

    Attributes:
        path: the folder.
        digest: sha256 (hex) of the canonical JSON of the manifest.
        agent: the agent's name.
        contract: signals, units, limits, rate.
        formats: file per format, e.g. `{"onnx": "policy.onnx", "torchscript": "policy.pt"}`.
        active: the format that flies.
        profile: target profile the formats were made for.
        provenance: where weights, normaliser and tools come from.
        files: per file name its `sha256` and `size`.
    """

    path: Path
    digest: str
    agent: str
    contract: Contract
    formats: Mapping[str, str]
    active: str
    profile: str
    provenance: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]

    def read(self, name: str) -> bytes:
        """Bytes of one file, compared with the manifest once more.

        Raises:
            BundleError: not a file of this bundle, or changed since the bundle was opened.
        """
        if name not in self.files:
            raise BundleError(f"bundle {self.path} has no file '{name}'; it has {', '.join(sorted(self.files))}")
        return _read_verified(self.path, name, self.files[name])

    def policy_file(self, fmt: str | None = None) -> str:
        """File name of the policy in the format `fmt` (default: the active one).

        Raises:
            BundleError: the bundle does not hold that format.
        """
        name = fmt or self.active
        if name not in self.formats:
            raise BundleError(
                f"bundle {self.path} has no format '{name}'", hint=f"it has: {', '.join(sorted(self.formats))}"
            )
        return self.formats[name]

    def golden(self) -> GoldenVectors:
        """The golden vectors.

        Raises:
            BundleError: the file changed or does not hold golden vectors.
        """
        try:
            return golden_from_bytes(self.read(GOLDEN))
        except AgentError as error:
            raise BundleError(f"bundle {self.path}: {error.message}") from error

    def network(self) -> Network:
        """The policy as a list of layers.

        Raises:
            BundleError: the file changed or does not hold a network.
        """
        try:
            return network_from_bytes(self.read(NETWORK))
        except ExportError as error:
            raise BundleError(f"bundle {self.path}: {error.message}") from error

    def safety(self) -> dict[str, Any] | None:
        """The resolved safety limits, or None where the bundle has none.

        Raises:
            BundleError: the file changed or is not a JSON mapping.
        """
        if SAFETY not in self.files:
            return None
        limits = _parse_json(self.read(SAFETY), f"{self.path / SAFETY}")
        if not isinstance(limits, dict):
            raise BundleError(f"{self.path / SAFETY} is not a mapping")
        return limits


def open_bundle(path: Path, *, digest: str | None = None) -> Bundle:
    """Open a bundle and verify every byte of it.

    Args:
        path: the folder, or a link to it.
        digest: what the digest must be, where the caller knows.

    Raises:
        BundleError: no such folder; manifest missing, truncated or not canonical; a file missing, superfluous, of
            another size or content, a link, or with a name that leaves the folder; or another digest than asked for.
    """
    root = path.resolve()
    if not root.is_dir():
        raise BundleError(f"no bundle at {path}", hint="make one with: sim2sky export AGENT.zip -o BUNDLE", misuse=True)
    manifest, found = _read_manifest(root)
    if digest is not None and digest != found:
        raise BundleError(f"bundle {path} has digest {found[:12]}, expected {digest[:12]}")
    _check_manifest(root, manifest)
    files: dict[str, dict[str, Any]] = manifest["files"]
    present = {entry.name for entry in os.scandir(root)}
    if missing := set(files) - present:
        raise BundleError(f"bundle {path} lacks {', '.join(sorted(missing))}")
    if extra := present - set(files) - {MANIFEST}:
        raise BundleError(f"bundle {path} holds files its manifest does not name: {', '.join(sorted(extra))}")
    contents = {name: _read_verified(root, name, files[name]) for name in sorted(files)}
    data = _parse_json(contents[CONTRACT], str(path / CONTRACT))
    try:
        contract = Contract.from_json(data if isinstance(data, dict) else {})
    except ContractError as error:
        raise BundleError(f"bundle {path}: {error.message}") from error
    if contract.hash != manifest["contract_hash"]:
        raise BundleError(f"bundle {path}: {CONTRACT} is not the contract its manifest names")
    return Bundle(
        root,
        found,
        manifest["agent"],
        contract,
        manifest["formats"],
        manifest["active"],
        manifest["profile"],
        manifest["provenance"],
        files,
    )


def write_bundle(
    out: Path,
    *,
    agent: str,
    contract: Contract,
    formats: Mapping[str, str],
    active: str,
    files: Mapping[str, bytes],
    profile: str = "",
    provenance: Mapping[str, object] | None = None,
    replace: bool = False,
) -> Bundle:
    """Write a bundle, complete or not at all; equal arguments give an equal digest.

    Args:
        out: the folder to make. If it already is this very bundle, nothing is written.
        agent: the agent's name.
        contract: written as `contract.json`.
        formats: file name in `files` per format.
        active: the format that flies.
        files: contents by name: `network.npz`, `golden.npz`, the formats' files, optionally `safety.json`.
        profile: target profile.
        provenance: JSON-compatible; no time stamps, no paths of this machine.
        replace: put the new bundle in the place of another one.

    Raises:
        BundleError: a name is not plain, a file is missing, `out` is taken, or the folder cannot be written.
    """
    contents = {**files, CONTRACT: canonical_json(contract.to_json())}
    if CONTRACT in files and files[CONTRACT] != contents[CONTRACT]:
        raise BundleError(f"the given {CONTRACT} is not the given contract")
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "agent": agent,
        "contract_hash": contract.hash,
        "formats": dict(formats),
        "active": active,
        "profile": profile,
        "provenance": dict(provenance or {}),
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in contents.items()
        },
    }
    try:
        manifest = json.loads(canonical_json(manifest))
    except (TypeError, ValueError) as error:
        raise BundleError(f"the manifest is not JSON: {error}") from error
    _check_manifest(out, manifest)
    digest = _digest(manifest)
    if os.path.lexists(out):
        with contextlib.suppress(BundleError):
            return open_bundle(out, digest=digest)
        if not replace or out.is_symlink() or not (out / MANIFEST).is_file():
            raise BundleError(
                f"{out} already exists and is not this bundle", hint="choose another output folder", misuse=True
            )
    _write_folder(out, {**contents, MANIFEST: _manifest_bytes(manifest)})
    return open_bundle(out, digest=digest)


def _write_folder(out: Path, contents: Mapping[str, bytes]) -> None:
    temporary: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp"))
        folder = temporary / "new"
        folder.mkdir()
        for name, data in contents.items():
            with (folder / name).open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync_folder(folder)
        if out.exists():
            aside = out.rename(temporary / "old")
            try:
                folder.rename(out)
            except OSError:
                aside.rename(out)
                raise
        else:
            folder.rename(out)
        _sync_folder(out.parent)
    except OSError as error:
        raise BundleError(
            f"cannot write bundle {out}: {error.strerror or error}",
            hint="check that the folder is writable and the disk is not full",
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(manifest)).hexdigest()


def _manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    return canonical_json({"digest": _digest(manifest), "manifest": manifest}) + b"\n"


def _read_manifest(root: Path) -> tuple[dict[str, Any], str]:
    where = str(root / MANIFEST)
    data = _read_plain(root, MANIFEST, limit=MAX_MANIFEST_BYTES)
    document = _parse_json(data, where)
    manifest = document.get("manifest") if isinstance(document, dict) else None
    if not isinstance(manifest, dict):
        raise BundleError(f"{where} is not a bundle manifest")
    try:
        canonical = _manifest_bytes(manifest)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where} is not a bundle manifest: {error}") from error
    if canonical != data:
        raise BundleError(f"{where} is damaged: its digest does not fit its content")
    return manifest, _digest(manifest)


def _parse_json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where} is not valid JSON (truncated?): {error}") from error


def _check_manifest(root: Path, manifest: dict[str, Any]) -> None:
    """Types, names and references of a manifest; no file is touched."""

    def refuse(what: str) -> BundleError:
        return BundleError(f"bundle {root}: {what}")

    if manifest.get("schema") != SCHEMA:
        raise refuse(f"schema {manifest.get('schema')!r} is not {SCHEMA}")
    if set(manifest) != set(_FIELDS):
        raise refuse(f"manifest fields are {sorted(manifest)}, expected {sorted(_FIELDS)}")
    texts = ("agent", "contract_hash", "active", "profile")
    if wrong := [k for k in texts if not isinstance(manifest[k], str)]:
        raise refuse(f"manifest field '{wrong[0]}' is not a text")
    if wrong := [k for k in ("formats", "provenance", "files") if not isinstance(manifest[k], dict)]:
        raise refuse(f"manifest field '{wrong[0]}' is not a mapping")
    if not _NAME.fullmatch(manifest["agent"]):
        raise refuse(f"agent name {manifest['agent']!r} is not made of letters, digits, '.', '_' and '-'")
    files: dict[str, Any] = manifest["files"]
    for name, entry in files.items():
        if not _NAME.fullmatch(name) or name == MANIFEST:
            raise refuse(f"file name {name!r} is not allowed")
        if not isinstance(entry, dict) or set(entry) != {"sha256", "size"}:
            raise refuse(f"entry of file '{name}' needs exactly sha256 and size")
        size, sha256 = entry["size"], entry["sha256"]
        if type(size) is not int or size < 0 or not isinstance(sha256, str) or not _HEX.fullmatch(sha256):
            raise refuse(f"sha256 or size of file '{name}' is malformed")
    if len({name.casefold() for name in files}) != len(files):
        raise refuse("two file names differ in case only")
    if lacking := [name for name in (CONTRACT, NETWORK, GOLDEN) if name not in files]:
        raise refuse(f"needs a file {lacking[0]}")
    formats: dict[str, Any] = manifest["formats"]
    if lacking := [f for f, name in formats.items() if not isinstance(name, str) or name not in files]:
        raise refuse(f"the file of format '{lacking[0]}' is missing")
    if manifest["active"] not in formats:
        raise refuse(f"active format '{manifest['active']}' is not one of {sorted(formats)}")


def _read_plain(root: Path, name: str, *, limit: int, size: int | None = None) -> bytes:
    """Bytes of a regular file directly in `root`; links, pipes and devices are refused."""
    path = root / name
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise BundleError(f"{path} is not a plain file")
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            actual = os.fstat(file.fileno()).st_size
            if size is not None and actual != size:
                raise BundleError(f"{path} has {actual} bytes, its manifest says {size}")
            if actual > limit:
                raise BundleError(f"{path} is larger than {limit} bytes")
            return file.read(limit + 1)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error


def _read_verified(root: Path, name: str, entry: Mapping[str, Any]) -> bytes:
    data = _read_plain(root, name, limit=entry["size"], size=entry["size"])
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise BundleError(
            f"{root / name} differs from its manifest (sha256)", hint="install or export the bundle again"
        )
    return data
