"""Opens a Stable-Baselines3 zip and what lies beside it, without executing any pickle.

Every read is bounded; every serialized field and every torch file is looked through for what could run code before
anything is used. torch itself is only asked for plain tensors (`weights_only=True`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import pickle
import re
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2sky.agent.sb3_pickle import decode, is_trusted, scan_stream
from sim2sky.agent.sb3_spaces import Normaliser, normaliser_from
from sim2sky.errors import AgentError

__all__ = ["Archive", "find_vecnormalize", "read_archive", "read_variables", "read_vecnormalize"]

MAX_DATA_BYTES = 64 << 20
MAX_WEIGHT_BYTES = 512 << 20
MAX_ZIP_BYTES = 2 << 30
MAX_PARAMETERS = 64 << 20
MAX_NORMALISER_BYTES = 64 << 20
MAX_ENTRIES = 256

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, KeyError)
_WEIGHTS = "policy.pth"
_VARIABLES = "pytorch_variables.pth"
_READ_FIELDS = ("policy_class", "policy_kwargs", "observation_space", "action_space")


@dataclass(frozen=True, slots=True, eq=False)
class Archive:
    """What was read from a zip.

    Attributes:
        fields: the zip's hyper-parameters; those stored as pickles as records that nothing was called for.
        state: the policy's tensors.
        sb3_version: as the zip says, or None.
        sha256: of the zip.
    """

    fields: dict[str, Any]
    state: dict[str, NDArray[Any]]
    sb3_version: str | None
    sha256: str


def read_archive(path: Path) -> Archive:
    """Read a zip.

    Raises:
        AgentError: missing, truncated, not a zip, too large, or it would run code (then named).
    """
    raw = _read_file(path, MAX_ZIP_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            names = [entry.filename for entry in archive.infolist()]
            if len(names) > MAX_ENTRIES or len(set(names)) != len(names):
                raise AgentError(f"{path} holds too many entries, or two of the same name")
            if lacking := [name for name in ("data", _WEIGHTS) if name not in names]:
                raise AgentError(
                    f"{path} is not a Stable-Baselines3 agent, or truncated: it lacks '{lacking[0]}'",
                    hint="give the .zip that model.save(...) wrote",
                )
            fields = _read_fields(path, _entry(path, archive, "data", MAX_DATA_BYTES))
            for name in names:
                if name != _WEIGHTS and name.endswith((".pth", ".pt", ".pkl")):
                    _scan_torch(_entry(path, archive, name, MAX_WEIGHT_BYTES), f"{path}: '{name}'")
            policy = _entry(path, archive, _WEIGHTS, MAX_WEIGHT_BYTES)
            version = None
            if "_stable_baselines3_version" in names:
                text = _entry(path, archive, "_stable_baselines3_version", 256).decode("ascii", errors="replace")
                version = text.strip() or None
    except _DAMAGE as error:
        raise AgentError(
            f"{path} is not a readable zip file (truncated?): {error}", hint="copy or save the agent again"
        ) from error
    _scan_torch(policy, f"{path}: '{_WEIGHTS}'")
    return Archive(fields, _load_weights(policy, f"{path}: '{_WEIGHTS}'"), version, hashlib.sha256(raw).hexdigest())


def read_variables(path: Path) -> dict[str, NDArray[Any]]:
    """Tensors a zip's algorithm keeps beside its policy's, such as SAC's entropy coefficient; empty where it has none.

    Raises:
        AgentError: as `read_archive`.
    """
    where = f"{path}: '{_VARIABLES}'"
    try:
        with zipfile.ZipFile(io.BytesIO(_read_file(path, MAX_ZIP_BYTES))) as archive:
            if _VARIABLES not in archive.namelist():
                return {}
            data = _entry(path, archive, _VARIABLES, MAX_WEIGHT_BYTES)
    except _DAMAGE as error:
        raise AgentError(f"{path} is not a readable zip file (truncated?): {error}") from error
    _scan_torch(data, where)
    return _load_weights(data, where)


def _read_file(path: Path, limit: int) -> bytes:
    try:
        if path.stat().st_size > limit:
            raise AgentError(f"{path} is larger than {limit >> 20} MiB")
        with path.open("rb") as file:
            return file.read(limit + 1)
    except FileNotFoundError as error:
        raise AgentError(f"{path} does not exist", hint="give the .zip that model.save(...) wrote") from error
    except OSError as error:
        raise AgentError(f"cannot read {path}: {error.strerror}") from error


def _entry(path: Path, archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """One entry; what its header says about the size is not believed."""
    with archive.open(name) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise AgentError(f"{path}: '{name}' unpacks to more than {limit} bytes")
    return data


def _read_fields(path: Path, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AgentError(f"{path}: 'data' is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise AgentError(f"{path}: 'data' is not a mapping")
    fields: dict[str, Any] = {}
    for key, value in document.items():
        if not isinstance(value, dict) or ":serialized:" not in value:
            fields[key] = value
            continue
        where = f"{path}: field '{key}'"
        try:
            content = decode(base64.b64decode(value[":serialized:"]), where)
        except (TypeError, ValueError, binascii.Error) as error:
            raise AgentError(f"{where} is damaged: {error}") from error
        except AgentError:
            if key in _READ_FIELDS or not _is_unreadable(value[":serialized:"], where):
                raise
            fields[key] = None  # its presence still tells the algorithm
            continue
        # Spaces hold nothing but library objects. (A policy's keywords may name the user's own classes: those are
        # judged one by one, by what they are used for.)
        if key.endswith("_space") and (unknown := [n for n in sorted(content.names) if not is_trusted(n)]):
            raise AgentError(f"{where} refers to '{unknown[0]}', which is no part of a space; the file is refused")
        fields[key] = content.value
    return fields


def _is_unreadable(text: str, where: str) -> bool:
    """Whether a field nobody reads is merely damaged; what could run code stays an error."""
    try:
        decode(base64.b64decode(text), where)
    except AgentError as error:
        return " is damaged: " in error.message
    return False


def _scan_torch(data: bytes, where: str) -> None:
    """Look through the pickles of a torch file."""
    if not data.startswith(b"PK"):
        scan_stream(data, where)
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MAX_WEIGHT_BYTES:
                raise AgentError(f"{where} unpacks to more than {MAX_WEIGHT_BYTES >> 20} MiB")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise AgentError(f"{where} is compressed inside, which torch never does")
            for entry in entries:
                if entry.filename.endswith(".pkl"):
                    with archive.open(entry) as file:
                        decode(file.read(MAX_DATA_BYTES), where, storages=True)
    except _DAMAGE as error:
        raise AgentError(f"{where} is damaged: {error}") from error


def _load_weights(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old files make torch speak of its own deprecations
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, *_DAMAGE, OSError, TypeError, AttributeError, IndexError, OverflowError) as error:
        named = re.search(r"Unsupported \w+: (?:GLOBAL )?(\S+)", str(error))
        reason = f"it refers to '{named[1]}'" if named else repr(error)
        raise AgentError(f"{where} cannot be read as plain tensors: {reason[:200]}") from error
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise AgentError(f"{where} is not a mapping of names to tensors")
    if sum(t.numel() for t in state.values()) > MAX_PARAMETERS:
        raise AgentError(f"{where} has more than {MAX_PARAMETERS >> 20} million parameters")
    arrays: dict[str, NDArray[Any]] = {}
    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            raise AgentError(f"{where}: '{key}' is not a plain tensor")
        value = tensor.detach().to(torch.float32 if tensor.is_floating_point() else torch.int64).numpy()
        if not np.isfinite(value).all():
            raise AgentError(
                f"{where}: '{key}' is not finite", hint="the training diverged; take an earlier checkpoint"
            )
        name = key.removeprefix("_orig_mod.")  # torch.compile wraps the module it compiles
        arrays[name] = np.array(value)  # owned, C order, free of torch
    return arrays


def read_vecnormalize(path: Path) -> tuple[Normaliser | None, str]:
    """Statistics of a `vecnormalize.pkl` (None where it leaves observations alone) and the file's sha256.

    Raises:
        AgentError: missing, damaged, not a VecNormalize, or it would run code (then named).
    """
    raw = _read_file(path, MAX_NORMALISER_BYTES)
    content = decode(raw, str(path))
    if unknown := [name for name in sorted(content.names) if not is_trusted(name)]:
        raise AgentError(
            f"{path} refers to '{unknown[0]}', which is no part of a VecNormalize; the file is refused and nothing "
            "of it was run"
        )
    return normaliser_from(content.value, str(path)), hashlib.sha256(raw).hexdigest()


def find_vecnormalize(model: Path) -> Path | None:
    """The normaliser that belongs to a zip, by the names training tools give it.

    `vecnormalize.pkl` beside the zip; in a folder named as the zip or (rl-zoo) the only one that holds a run's
    configuration; `rl_model_vecnormalize_1000_steps.pkl` beside `rl_model_1000_steps.zip`.

    Raises:
        AgentError: a run's configuration names a normaliser and there is none.
    """
    folder, stem = model.parent, model.stem
    names = ["vecnormalize.pkl", "vec_normalize.pkl", f"{stem}_vecnormalize.pkl"]
    if match := re.fullmatch(r"(.+)_(\d+)_steps", stem):
        names.insert(0, f"{match[1]}_vecnormalize_{match[2]}_steps.pkl")
    try:
        runs = [d for d in sorted(folder.iterdir()) if d.is_dir() and (d / "config.yml").is_file()]
    except OSError:
        runs = []
    places = [folder, folder / stem, *(runs if len(runs) == 1 else [])]
    for place in places:
        for name in names:
            if (place / name).is_file():
                return place / name
    for place in places:
        for name in ("config.yaml", "config.yml", "run.json", "config.json", f"{stem}.yaml", f"{stem}.json"):
            if (place / name).is_file() and _names_normaliser(place / name):
                raise AgentError(
                    f"{place / name} says the agent was trained with a normaliser (VecNormalize), but there is none "
                    f"beside {model}",
                    hint=f"copy vecnormalize.pkl to {folder}, or give it with --vecnormalize FILE",
                )
    return None


_KEY = re.compile(
    r"""(?mix) (?: ["']? \b (?: normali[sz]e | vec_?normali[sz]e(?:r|d)? | normali[sz]er ) ["']? \s* : [ \t]*
        | ^ [ \t-]* - [ ] ["']? (?: normali[sz]e | vec_?normali[sz]e ) ["']? [ \t]* \n [ \t]* - [ \t]+ )
        (?P<value> [^\n]*)
        (?P<rest> (?: \n [ \t]+ [^\n]* ){0,6} )"""
)
_NO = re.compile(
    r"""(?ix) ["']? (?: false | no | off | null | none | ~ | 0 | \{\s*\} | "" | '' )? ["']? [\s,}\]]* (?: \#.* )?"""
)
_NOT_OBSERVATIONS = re.compile(r"""(?ix) norm_obs ["']? \s* [:=] \s* (?: false | no | off )""")


def _names_normaliser(path: Path) -> bool:
    """Whether a run's configuration says that observations were normalised. Looks at text only."""
    try:
        with path.open("rb") as file:
            text = file.read(1 << 20).decode("utf-8", errors="replace")
    except OSError:
        return False
    for match in _KEY.finditer(text):
        value, rest = match["value"].strip(), match["rest"]
        if _NOT_OBSERVATIONS.search(value + rest):
            continue
        if not value.startswith(("{", "dict", '"{', "'{", '"dict', "'dict")):
            value = value.split(",", 1)[0].strip()  # JSON on one line
        nested = not value and re.match(r"\n[ \t]+[\w'\"]+\s*:", rest)
        if nested or not _NO.fullmatch(value):
            return True
    return False
