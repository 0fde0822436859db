"""YAML files to frozen pydantic models; a mistake names file, line, key and the closest valid key."""

from __future__ import annotations

import difflib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from sim2sky.errors import ConfigError

__all__ = [
    "Range",
    "Settings",
    "default_path",
    "dump_yaml",
    "line_of",
    "load_settings",
    "parse_settings",
    "validate_settings",
]


class Settings(BaseModel):
    """Base of all settings: immutable, no unknown keys, no silent conversions of NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"a range is [low, high]; {value[0]} is above {value[1]}")
    return value


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
"""[low, high], drawn uniformly once per episode; equal ends fix the value."""

M = TypeVar("M", bound=BaseModel)


def default_path(kind: str, name: str = "default") -> Path:
    """Path of a shipped configuration, e.g. `default_path("validation")`; in a wheel or in a checkout.

    Raises:
        ConfigError: there is no such file.
    """
    here = Path(__file__).resolve().parent.parent
    for root in (here / "configs", here.parent.parent / "configs"):
        path = root / kind / f"{name}.yaml"
        if path.is_file():
            return path
    raise ConfigError(f"no shipped configuration {kind}/{name}.yaml")


def load_settings(path: Path, model: type[M], *, section: str | None = None) -> M:
    """Read one YAML file into a model.

    Args:
        path: the file.
        model: what it must be.
        section: top-level key under which the settings stand, if any.

    Raises:
        ConfigError: the file cannot be read or parsed, or a key or value is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", hint="name an existing YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    return parse_settings(text, model, source=str(path), section=section)


def parse_settings(text: str, model: type[M], *, source: str, section: str | None = None) -> M:
    """As `load_settings`, from a string; `source` names it in messages."""
    try:
        data = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}:{line}: not valid YAML: {error.problem or error}") from error
    except YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from error
    data = {} if data is None else data
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}:1: expected `key: value` lines, found {type(data).__name__}")
    root, prefix = data, ()
    if section is not None:
        unknown = [k for k in data if k != section]
        if unknown:
            raise ConfigError(
                f"{source}:{_line(data, (unknown[0],))}: unknown key '{unknown[0]}'",
                hint=f"all settings of this file stand under '{section}:'",
            )
        root, prefix = data.get(section) or {}, (section,)
    try:
        return model.model_validate(_plain(root))
    except ValidationError as error:
        raise ConfigError(*_explain(error, model, data, prefix, source)) from error


def validate_settings(data: Mapping[str, Any] | None, model: type[M], *, source: str = "config") -> M:
    """As `parse_settings`, from a mapping that Python code made."""
    try:
        return model.model_validate(dict(data or {}))
    except ValidationError as error:
        raise ConfigError(*_explain(error, model, None, (), source)) from error


def _plain(node: Any) -> Any:
    """Round-trip YAML types to plain Python ones."""
    if isinstance(node, Mapping):
        return {str(k): _plain(v) for k, v in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_plain(v) for v in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _line(data: Any, location: Sequence[str | int]) -> int:
    """Line (from 1) of the deepest part of `location` that exists in the file."""
    line, node = 1, data
    for key in location:
        try:
            marks = node.lc  # ruamel's record of lines
            line = (marks.key(key) if isinstance(node, Mapping) else marks.item(key))[0] + 1
            node = node[key]
        except (KeyError, IndexError, TypeError, AttributeError):
            break
    return line


def _explain(
    error: ValidationError, model: type[BaseModel], data: Any, prefix: tuple[str, ...], source: str
) -> tuple[str, ...]:
    messages = []
    for problem in error.errors():
        location = prefix + tuple(problem["loc"])
        dotted = ".".join(str(part) for part in location) or "(file)"
        where = source if data is None else f"{source}:{_line(data, location)}"
        if problem["type"] == "extra_forbidden":
            valid = _keys_at(model, problem["loc"][:-1])
            close = difflib.get_close_matches(str(problem["loc"][-1]), valid, n=1, cutoff=0.5)
            remedy = f"did you mean '{close[0]}'?" if close else f"valid keys: {', '.join(valid)}"
            messages.append(f"{where}: unknown key '{dotted}'; {remedy}")
        else:
            given = problem.get("input")
            shown = f", got {given!r}" if isinstance(given, (str, int, float, bool, list)) else ""
            messages.append(f"{where}: {dotted}: {problem['msg']}{shown}")
    return ("\n".join(messages),)


def _keys_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    current: Any = model
    for key in location:
        field = current.model_fields.get(str(key)) if _is_model(current) else None
        if field is None:
            continue
        options = [field.annotation, *get_args(field.annotation)]
        current = next((option for option in options if _is_model(option)), current)
    return list(current.model_fields) if _is_model(current) else []


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def dump_yaml(settings: BaseModel) -> str:
    """The resolved settings as YAML, to be saved beside a result."""
    stream = io.StringIO()
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(_finite(settings.model_dump(mode="json")), stream)
    return stream.getvalue()


def _finite(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _finite(v) for k, v in node.items()}
    if isinstance(node, list):
        return [_finite(v) for v in node]
    if isinstance(node, float) and not math.isfinite(node):
        raise ConfigError(f"a setting is not finite: {node}")
    return node


def line_of(path: Path, location: Sequence[str | int]) -> int:
    """Line (from 1) of a key or item in a YAML file that was loaded before, for messages about its meaning."""
    return _line(YAML(typ="rt").load(path.read_text(encoding="utf-8")), location)
