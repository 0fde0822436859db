"""What a target accepts: a signed manifest of a trusted key, and exactly the files it lists.

A release is a folder with `release.json` (RFC 8785 canonical JSON), `release.sig` (public key and ed25519 signature,
96 bytes) and the files that the manifest names. The signature is checked before the manifest is parsed, the manifest
before a file is opened, a file's size before it is read. Runs on the target: standard library, Python 3.6.
"""

import hashlib
import json
import os
import re
import stat
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from sim2sky.deployment.ed25519 import is_valid_key, verify
from sim2sky.errors import TargetError

__all__ = [
    "MANIFEST",
    "SIGNATURE",
    "TrustStore",
    "canonical",
    "check_files",
    "check_manifest",
    "key_id",
    "parse_key",
    "read_plain",
    "verify_release",
]

SCHEMA = 1
MANIFEST, SIGNATURE = "release.json", "release.sig"
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 256
MAX_FILE_BYTES = 256 << 20
MAX_TOTAL_BYTES = 512 << 20
SIGNATURE_BYTES = 96
MAX_KEYS = 64
REQUIRED = ("bundle/bundle.json", "bundle/contract.json", "bundle/golden.npz", "fly", "install.pyz", "sim2sky.pyz")
BUNDLE_DIGITS = 16  # of its digest in a release's name

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_PATH = re.compile(rf"{_PART}(/{_PART}){{0,3}}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_TEXT = re.compile(_PART)
_KEY = re.compile(r"ed25519 ([0-9a-f]{64}) ([A-Za-z0-9][A-Za-z0-9._@-]{0,63})\n?")
_INTEGERS = ("schema", "version", "expires")
_HASHES = ("bundle_digest", "contract_hash", "golden_hash", "key")
_TEXTS = ("release", "agent", "profile")


def canonical(value: Any) -> bytes:
    """RFC 8785 form of JSON made of ASCII texts, integers, lists and mappings: all that a manifest may hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def key_id(public: bytes) -> str:
    """How a public key is named in messages: its first 8 bytes."""
    return public.hex()[:16]


def parse_key(text: str) -> "Tuple[bytes, str]":
    """Public key and name of a line `ed25519 HEX NAME`.

    Raises:
        TargetError: it is no such line, or no key that may be trusted.
    """
    match = _KEY.fullmatch(text)
    if match is None:
        raise TargetError("this is no public key of sim2sky", hint="its one line reads: ed25519 HEX NAME")
    public = bytes.fromhex(match.group(1))
    if not is_valid_key(public):
        raise TargetError(f"the public key {key_id(public)} is not a valid one", hint="make one: sim2sky keys new")
    return public, match.group(2)


def read_plain(path: str, *, limit: int, size: "Optional[int]" = None) -> bytes:
    """Bytes of a regular file; links, pipes, devices, hard links and anything larger than `limit` are refused unread.

    Raises:
        TargetError: refused. OSError: it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) if not os.path.islink(path) else -1
    name = os.path.basename(path)
    if handle < 0:
        raise TargetError(f"{name} is a link")
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise TargetError(f"{name} is not a plain file")
        if found.st_size > limit:
            raise TargetError(f"{name} is larger than the {limit} bytes allowed")
        if size is not None and found.st_size != size:
            raise TargetError(f"{name} has {found.st_size} bytes, the manifest says {size}")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise TargetError(f"{name} grew while it was read")
    return data


class TrustStore:
    """Public keys that may sign for a target, and those that never may again."""

    def __init__(self, keys: "Dict[bytes, str]", revoked: "Set[bytes]") -> None:
        self.keys, self.revoked = keys, revoked

    @classmethod
    def read(cls, folder: str) -> "TrustStore":
        """The store in a folder: `*.pub` and `revoked`; empty where there is none.

        Raises:
            TargetError: it is damaged.
        """
        keys: "Dict[bytes, str]" = {}
        revoked: "Set[bytes]" = set()
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        for name in names[: 2 * MAX_KEYS]:
            if name.startswith("."):
                continue
            text = read_plain(os.path.join(folder, name), limit=16384).decode("utf-8", "replace")
            for line in text.splitlines():
                public, label = parse_key(line)
                if name == "revoked":
                    revoked.add(public)
                else:
                    keys[public] = label
        return cls(keys, revoked)

    def name_of(self, public: bytes) -> str:
        """A key as messages name it."""
        label = self.keys.get(public)
        return f"{key_id(public)} ({label})" if label else key_id(public)

    def judge(self, public: bytes) -> None:
        """Raise TargetError unless the key may sign."""
        if public in self.revoked:
            raise TargetError(
                f"signed with key {self.name_of(public)}, which is revoked here",
                hint="deploy with a key that this target trusts: sim2sky deploy ... --key NAME",
            )
        if public not in self.keys:
            raise TargetError(
                f"signed with key {key_id(public)}, which this target does not trust",
                hint="someone who may install there runs: sim2sky keys trust KEY TARGET",
            )


def _no_duplicates(pairs: "List[Tuple[str, Any]]") -> "Dict[str, Any]":
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refuse_number(text: str) -> Any:
    raise ValueError(f"{text} is not an integer")


def check_manifest(data: bytes) -> "Dict[str, Any]":
    """Parse a manifest and check its form, types, names, limits; no file is touched.

    Raises:
        TargetError: anything but the one canonical form of a well-formed manifest.
    """

    def refuse(what: str) -> TargetError:
        return TargetError(f"{MANIFEST}: {what}", hint="deploy again")

    try:
        manifest = json.loads(
            data.decode("ascii"),
            object_pairs_hook=_no_duplicates,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
        form = canonical(manifest)
    except (ValueError, RecursionError) as error:
        raise refuse(f"no manifest ({error})") from None
    if form != data:
        raise refuse("not in canonical form (RFC 8785)")
    fields = {"files", *_INTEGERS, *_HASHES, *_TEXTS}
    if not isinstance(manifest, dict) or set(manifest) != fields:
        raise refuse("its fields are not {}".format(", ".join(sorted(fields))))
    for name in _INTEGERS:
        if type(manifest[name]) is not int or not 0 < manifest[name] < 1 << 53:
            raise refuse(f"{name} is not a positive integer")
    for name, pattern in [(n, _HEX64) for n in _HASHES] + [(n, _TEXT) for n in _TEXTS]:
        if not isinstance(manifest[name], str) or not pattern.fullmatch(manifest[name]):
            raise refuse(f"{name} is malformed")
    if manifest["schema"] != SCHEMA:
        raise refuse("schema {} is not {}".format(manifest["schema"], SCHEMA))
    if manifest["release"] != "{}-{}".format(manifest["bundle_digest"][:BUNDLE_DIGITS], manifest["version"]):
        raise refuse("its name does not fit bundle and version")
    _check_list(manifest["files"], refuse)
    if manifest["files"]["bundle/golden.npz"]["sha256"] != manifest["golden_hash"]:
        raise refuse("golden_hash is not that of the golden vectors it lists")
    if manifest["files"]["bundle/contract.json"]["sha256"] != manifest["contract_hash"]:
        raise refuse("contract_hash is not that of the contract it lists")
    return manifest


def _check_list(files: Any, refuse: Any) -> None:
    if not isinstance(files, dict) or len(files) > MAX_FILES:
        raise refuse(f"files is no list of at most {MAX_FILES} files")
    total = 0
    for name, entry in files.items():
        if not _PATH.fullmatch(name) or name in (MANIFEST, SIGNATURE):
            raise refuse(f"file name {name!r} is not allowed")
        if not isinstance(entry, dict) or set(entry) != {"sha256", "size"}:
            raise refuse(f"the entry of {name} needs exactly sha256 and size")
        size, sha256 = entry["size"], entry["sha256"]
        if type(size) is not int or not 0 <= size <= MAX_FILE_BYTES:
            raise refuse(f"the size of {name} is not between 0 and {MAX_FILE_BYTES}")
        if not isinstance(sha256, str) or not _HEX64.fullmatch(sha256):
            raise refuse(f"the sha256 of {name} is malformed")
        total += size
    if total > MAX_TOTAL_BYTES:
        raise refuse(f"{total} bytes in all, {MAX_TOTAL_BYTES} are allowed")
    lowered = {name.lower() for name in files}
    if len(lowered) != len(files):
        raise refuse("two file names differ in case only")
    for name in lowered:
        parents = name.split("/")
        if any("/".join(parents[:n]) in lowered for n in range(1, len(parents))):
            raise refuse(f"{name} lies below a file")
    lacking = [name for name in REQUIRED if name not in files]
    if lacking:
        raise refuse(f"it lists no {lacking[0]}")


def read_manifest(folder: str, trust: TrustStore, *, now_s: "Optional[float]" = None) -> "Dict[str, Any]":
    """The manifest of a release after signature, key, form and, where `now_s` (unix time) is given, expiry.

    Raises:
        TargetError: refused.
    """
    try:
        signature = read_plain(os.path.join(folder, SIGNATURE), limit=SIGNATURE_BYTES, size=SIGNATURE_BYTES)
        data = read_plain(os.path.join(folder, MANIFEST), limit=MAX_MANIFEST_BYTES)
    except OSError as error:
        lacks = os.path.basename(str(error.filename))
        raise TargetError(
            f"{os.path.basename(folder)}: unsigned or incomplete: {lacks} ({error.strerror})",
            hint="deploy again; only signed releases are installed",
        ) from None
    public = signature[:32]
    trust.judge(public)
    if not verify(public, data, signature[32:]):
        raise TargetError(
            f"{os.path.basename(folder)}: the signature is not that of {MANIFEST}",
            hint="it was changed after it was signed; deploy again",
        )
    manifest = check_manifest(data)
    if manifest["key"] != public.hex():
        raise TargetError(f"{MANIFEST} names another key than the one that signed it")
    if now_s is not None and manifest["expires"] <= now_s:
        raise TargetError(
            "release {} expired {:.1f} days ago by this target's clock".format(
                manifest["release"], (now_s - manifest["expires"]) / 86400
            ),
            hint="check the target's clock (date); if it is right, deploy again for a fresh release",
        )
    return manifest


def _walk(folder: str, prefix: str = "") -> "Iterator[Tuple[str, Any]]":
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, prefix + entry.name + "/")
            else:
                yield prefix + entry.name, entry


def check_arrived(folder: str, manifest: "Dict[str, Any]") -> None:
    """Compare names, kinds and sizes of what lies in a folder with a manifest; no content is read.

    Raises:
        TargetError: a file is missing, superfluous, of another size, or no plain file.
    """
    files = manifest["files"]
    missing = set(files)
    for name, entry in _walk(folder):
        found = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise TargetError(f"{name} is not a plain file", hint="deploy again")
        if name in (MANIFEST, SIGNATURE):
            continue
        if name not in files:
            raise TargetError(f"{name} is not in the release's manifest", hint="deploy again")
        if found.st_size != files[name]["size"]:
            raise TargetError(
                "{} has {} bytes, the manifest says {}".format(name, found.st_size, files[name]["size"]),
                hint="deploy again",
            )
        missing.discard(name)
    if missing:
        raise TargetError(f"{min(missing)} did not arrive", hint="deploy again")


def check_files(folder: str, manifest: "Dict[str, Any]") -> None:
    """Compare every byte of a release with its manifest, and the bundle in it with the bundle's own.

    Raises:
        TargetError: something differs; the message names the file.
    """
    check_arrived(folder, manifest)
    for name, entry in manifest["files"].items():
        data = read_plain(os.path.join(folder, name), limit=entry["size"], size=entry["size"])
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise TargetError(f"{name} differs from the signed manifest (sha256)", hint="deploy again")
        if name == "bundle/bundle.json":
            _check_bundle(data, manifest)


def _check_bundle(data: bytes, manifest: "Dict[str, Any]") -> None:
    """The files of one bundle, not of two: the digest over the bundle's own list must be the signed one."""
    try:
        inner = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates)["manifest"]
        text = json.dumps(inner, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        listed = {"bundle/" + name: entry for name, entry in inner["files"].items()}
        facts = (inner["agent"], inner["profile"], inner["contract_hash"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TargetError(f"bundle/bundle.json is no bundle's manifest: {error}") from None
    if hashlib.sha256(text.encode("utf-8")).hexdigest() != manifest["bundle_digest"]:
        raise TargetError("bundle/bundle.json is not that of the bundle the release names", hint="deploy again")
    signed = {n: e for n, e in manifest["files"].items() if n.startswith("bundle/") and n != "bundle/bundle.json"}
    if listed != signed:
        odd = sorted(n for n in set(listed) | set(signed) if listed.get(n) != signed.get(n))
        raise TargetError(f"{odd[0]} belongs to another bundle", hint="deploy again")
    if facts != (manifest["agent"], manifest["profile"], manifest["contract_hash"]):
        raise TargetError("bundle/bundle.json names another agent, profile or contract than the release")


def verify_release(folder: str, trust: TrustStore, *, now_s: "Optional[float]" = None) -> "Dict[str, Any]":
    """Signature, manifest and every byte of a release; its manifest.

    Args:
        folder: the release.
        trust: keys that may sign.
        now_s: unix time, where an expired release is to be refused.

    Raises:
        TargetError: refused. OSError: it cannot be read.
    """
    manifest = read_manifest(folder, trust, now_s=now_s)
    check_files(folder, manifest)
    return manifest
