"""Settings: a mistake in a YAML file names file, line, key and the closest valid key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim2sky.config import EnvironmentSettings, default_path, dump_yaml, load_settings, parse_settings
from sim2sky.config.environment import DisturbanceSettings, RandomizationSettings
from sim2sky.config.loader import validate_settings
from sim2sky.config.training import TrainingSettings
from sim2sky.errors import ConfigError


def refuse(text, match, model=EnvironmentSettings, **kwargs):
    with pytest.raises(ConfigError, match=match) as caught:
        parse_settings(text, model, source="my.yaml", **kwargs)
    assert caught.value.exit_code == 2
    return caught.value


def test_unknown_key_names_line_and_closest():
    refuse("aircraft: ultrastick25e\ntask:\n  nme: hsa\n", r"my.yaml:3: unknown key 'task.nme'; did you mean 'name'\?")
    refuse("disturbances:\n  sensors:\n    rate_rads: 0.1\n", r"my.yaml:3: .*did you mean 'rate_radps'")
    refuse("zzz: 1\n", r"my.yaml:1: unknown key 'zzz'; valid keys: aircraft, task")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("rate_hz: fast\n", r"my.yaml:1: rate_hz: .*got 'fast'"),
        ("\n\nrate_hz: -5\n", r"my.yaml:3: rate_hz: .*greater than 0"),
        ("disturbances:\n  wind_mps: [3, 1]\n", r"my.yaml:2: .*3.0 is above 1.0"),
        ("disturbances:\n  wind_mps: [1]\n", r"my.yaml:2: disturbances.wind_mps"),
        ("disturbances:\n  wind_mps: [1, .inf]\n", r"my.yaml:2: disturbances.wind_mps.*finite"),
        ("rate_hz: 7\n", r"physics_hz 120.0 is not a multiple of rate_hz 7.0"),
        ("task: {duration_s: 3, hold_s: 4}\n", r"hold_s 4.0 is longer than duration_s 3.0"),
        ("aircraft: cessna\n", r"my.yaml:1: aircraft: .*'ultrastick25e' or 'aerosonde', got 'cessna'"),
        ("a: [1\n", r"my.yaml:2: not valid YAML"),
        ("- 1\n- 2\n", r"my.yaml:1: expected `key: value` lines"),
        ("\tx: 1\n", r"not valid YAML"),
    ],
)
def test_wrong_values_are_refused_with_their_place(text, match):
    refuse(text, match)


def test_several_mistakes_are_all_named():
    error = refuse("rate_hz: x\ntask:\n  hold_s: -1\n", "rate_hz")
    assert "my.yaml:3: task.hold_s" in error.message


def test_section_must_be_the_only_top_level_key():
    settings = parse_settings("env:\n  rate_hz: 40\n", EnvironmentSettings, source="s", section="env")
    assert settings.rate_hz == 40
    refuse("env: {}\nother: 1\n", r"my.yaml:2: unknown key 'other'", section="env")


def test_missing_file_and_wrong_encoding(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "absent.yaml", EnvironmentSettings)
    (tmp_path / "latin.yaml").write_bytes(b"aircraft: \xff\xfe\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_settings(tmp_path / "latin.yaml", EnvironmentSettings)


def test_empty_file_means_defaults():
    assert parse_settings("", EnvironmentSettings, source="x") == EnvironmentSettings()


def test_mapping_from_python_has_no_line_but_the_same_words():
    with pytest.raises(ConfigError, match=r"config: unknown key 'aircraf'; did you mean 'aircraft'\?"):
        validate_settings({"aircraf": "x"}, EnvironmentSettings)


ranges = st.tuples(st.floats(0, 10), st.floats(0, 10)).map(lambda r: (min(r), max(r)))


@given(
    st.builds(
        EnvironmentSettings,
        rate_hz=st.sampled_from([10.0, 20.0, 40.0]),
        disturbances=st.builds(DisturbanceSettings, wind_mps=ranges, turbulence_w20_mps=ranges, action_delay_s=ranges),
        randomization=st.builds(RandomizationSettings, mass_offset_kg=ranges, coefficient_scale=ranges),
    )
)
def test_resolved_yaml_reads_back_equal(settings):
    assert parse_settings(dump_yaml(settings), EnvironmentSettings, source="x") == settings


@pytest.mark.parametrize("name", ["hawk", "kite"])
def test_shipped_training_settings_load(name):
    settings = load_settings(default_path("training", name), TrainingSettings)
    assert settings.environment.task.name == "hsa"


def test_hyperparameters_must_not_shadow_own_keys():
    refuse("hyperparameters: {seed: 3}\n", "must not set seed", TrainingSettings)
