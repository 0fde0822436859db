"""What a target remembers: which release is active, which version it has seen, whom it trusts; one lock over all.

Every change is one atomic rename of one synced file. `install.json` alone decides what flies: `current` is for people
and scripts, and is put right by the next `recover`. Runs on the target: standard library, Python 3.6.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from typing import Any, Dict, Generator, List, Optional

from sim2sky.deployment.release_check import MANIFEST, TrustStore, check_manifest, parse_key, read_plain
from sim2sky.errors import TargetError

__all__ = ["TargetState", "plain_errors", "write_file"]

COMMITTED = "committed"


def sync_folder(folder: str) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: str, data: bytes) -> None:
    """Replace a file: after a power cut it is the old one or the new one."""
    temporary = os.path.join(os.path.dirname(path), "." + os.path.basename(path) + ".tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(os.path.dirname(path))


@contextlib.contextmanager
def plain_errors(root: str) -> "Generator[None, None, None]":
    """Map what the operating system says to a TargetError with its remedy."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise TargetError(
            f"{error.filename or root}: {error.strerror or error}",
            hint="free some space on its disk" if full else "check that the target's folder is writable",
        ) from error


class TargetState:
    """The files of a target's folder that are not a release."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.releases = os.path.join(self.root, "releases")
        self.incoming = os.path.join(self.root, "incoming")

    def release(self, name: str) -> str:
        """Folder of a release."""
        return os.path.join(self.releases, name)

    @contextlib.contextmanager
    def locked(self) -> "Generator[None, None, None]":
        """One change at a time; the kernel releases the lock when its owner dies.

        Raises:
            TargetError: someone else holds it.
        """
        for folder in (self.releases, self.incoming, os.path.join(self.root, "python"), self._trust):
            os.makedirs(folder, exist_ok=True)
        with open(os.path.join(self.root, "install.lock"), "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise TargetError(
                    f"{self.root}: another installation is running", hint="wait until it has ended"
                ) from None
            yield

    # Which release -----------------------------------------------------------------------------------------------

    def journal(self) -> "Dict[str, Any]":
        """`active`, `previous`, `installing` (release names or None) and `state`.

        Raises:
            TargetError: the file is damaged.
        """
        path = os.path.join(self.root, "install.json")
        try:
            data = json.loads(read_plain(path, limit=65536).decode("utf-8"))
            return {name: data[name] for name in ("active", "previous", "installing", "state")}
        except FileNotFoundError:
            return {"active": None, "previous": None, "installing": None, "state": COMMITTED}
        except (ValueError, KeyError, TypeError) as error:
            raise TargetError(f"{path} is damaged: {error!r}", hint="move the folder away and install again") from None

    def write_journal(
        self,
        active: "Optional[str]",
        previous: "Optional[str]",
        installing: "Optional[str]" = None,
        state: str = COMMITTED,
    ) -> None:
        """Say what is active; the moment an installation becomes permanent is this file's rename."""
        record = {"schema": 2, "active": active, "previous": previous, "installing": installing, "state": state}
        write_file(os.path.join(self.root, "install.json"), json.dumps(record, sort_keys=True).encode("utf-8"))

    def current(self) -> "Optional[str]":
        """The release that the link `current` names."""
        link = os.path.join(self.root, "current")
        return os.path.basename(os.readlink(link)) if os.path.islink(link) else None

    def point_current(self, release: "Optional[str]") -> None:
        """Make `current` a link to a release, in one rename; without one, remove it."""
        link, temporary = os.path.join(self.root, "current"), os.path.join(self.root, ".current.tmp")
        if release is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(link)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            os.symlink(os.path.join("releases", release), temporary)
            os.replace(temporary, link)
        sync_folder(self.root)

    # Versions ----------------------------------------------------------------------------------------------------

    def highest_seen(self) -> "Dict[str, Any]":
        """The highest version ever verified here: `version` and `release`.

        Where the record is missing or older than what is installed, what is installed counts.
        """
        seen: "Dict[str, Any]" = {"version": 0, "release": ""}
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError, TargetError):
            data = json.loads(read_plain(os.path.join(self.root, "versions.json"), limit=65536).decode("utf-8"))
            seen = {"version": int(data["version"]), "release": str(data["release"])}
        journal = self.journal()
        for name in (journal["active"], journal["previous"]):
            with contextlib.suppress(OSError, TargetError):
                manifest = check_manifest(read_plain(os.path.join(self.release(name or ""), MANIFEST), limit=1 << 20))
                if manifest["version"] > seen["version"]:
                    seen = {"version": manifest["version"], "release": manifest["release"]}
        return seen

    def check_version(self, manifest: "Dict[str, Any]") -> None:
        """Refuse a release older than the newest seen, and another one of the same version.

        Raises:
            TargetError: refused.
        """
        seen = self.highest_seen()
        older = manifest["version"] < seen["version"]
        if older or (manifest["version"] == seen["version"] and manifest["release"] != seen["release"]):
            raise TargetError(
                "version {} is {} the highest seen here, {}".format(
                    manifest["version"], "below" if older else "not above", seen["version"]
                ),
                hint="deploy again for a new version; to go back on purpose: sim2sky target rollback TARGET",
            )

    def record_version(self, manifest: "Dict[str, Any]") -> None:
        """Remember a version that was verified; never lowers it."""
        if manifest["version"] > self.highest_seen()["version"]:
            record = {"schema": 1, "version": manifest["version"], "release": manifest["release"]}
            write_file(os.path.join(self.root, "versions.json"), json.dumps(record, sort_keys=True).encode("utf-8"))

    # Trust -------------------------------------------------------------------------------------------------------

    @property
    def _trust(self) -> str:
        return os.path.join(self.root, "trust")

    def trust(self) -> TrustStore:
        """Keys that may sign for this target.

        Raises:
            TargetError: the store is damaged.
        """
        return TrustStore.read(self._trust)

    def add_key(self, line: str, *, first: bool = False) -> bool:
        """Trust a key; with `first` only where no key was ever known. True if the store holds it now and did not.

        Raises:
            TargetError: no key, or one that was revoked here.
        """
        public, name = parse_key(line)
        store = self.trust()
        if first and (store.keys or store.revoked):
            return False
        if public in store.revoked:
            raise TargetError(
                f"key {store.name_of(public)} was revoked here for good",
                hint="make another: sim2sky keys new NAME",
            )
        write_file(os.path.join(self._trust, public.hex()[:16] + ".pub"), f"ed25519 {public.hex()} {name}\n".encode())
        return public not in store.keys

    def revoke_key(self, line: str) -> bool:
        """Never accept a key again, known here or not. True if it was not revoked before."""
        public, name = parse_key(line)
        store = self.trust()
        if public in store.revoked:
            return False
        known = dict(store.keys)
        known[public] = known.get(public, name)
        lines = [
            "ed25519 {} {}".format(key.hex(), known.get(key, "revoked")) for key in sorted(store.revoked | {public})
        ]
        write_file(os.path.join(self._trust, "revoked"), ("\n".join(lines) + "\n").encode())
        return True

    # Cleaning ----------------------------------------------------------------------------------------------------

    def clean(self, *, keep_incoming: str = "") -> "List[str]":
        """Remove all but the active and the previous release; what cannot be removed is left for the next time."""
        journal = self.journal()
        keep = {journal["active"], journal["previous"]}
        removed: "List[str]" = []
        for folder, kept in (
            (self.incoming, {keep_incoming}),
            (self.releases, keep),
            (os.path.join(self.root, "python"), keep),
            (os.path.join(self.root, "native"), keep),
        ):
            for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
                if name in kept:
                    continue
                path = os.path.join(folder, name)
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(path)
                removed.append(os.path.relpath(path, self.root))
        return removed
