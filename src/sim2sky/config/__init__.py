"""Frozen pydantic models of every YAML file. Not imported by `runtime/`: a flight computer has no pydantic."""

from sim2sky.config.environment import EnvironmentSettings
from sim2sky.config.loader import Range, Settings, default_path, dump_yaml, load_settings, parse_settings

__all__ = [
    "EnvironmentSettings",
    "Range",
    "Settings",
    "default_path",
    "dump_yaml",
    "load_settings",
    "parse_settings",
]
