"""The shipped YAML files: the specification's keys and values, mistakes named by line, and their own safety check."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sim2sky.config.deployment import DeploymentSettings
from sim2sky.config.loader import default_path, load_settings, parse_settings
from sim2sky.config.safety import SafetySettings, resolve_safety
from sim2sky.config.validation import ValidationSettings
from sim2sky.environments.airframes import AIRFRAMES
from sim2sky.errors import ConfigError

SPECIFIED = """
model_export: {format: onnx, opset_version: 11}
optimization: {quantize: true, quantization_type: int8, prune: false, pruning_amount: 0.3}
validation:
  sim_validation_episodes: 100
  sim_success_threshold: 0.80
  hil_validation_episodes: 50
  hil_success_threshold: 0.70
  max_latency_ms: 20
  bench_test_required: true
  ground_test_required: true
target: {platform: jetson_nano, host: jetson@192.168.1.100, model_dir: /home/jetson/controls/models}
safety:
  preflight_checks_required: true
  kill_switch_enabled: true
  geofence_enabled: true
  max_altitude_m: 500
  max_range_m: 500
"""


def test_deployment_default_keeps_every_specified_key_and_value() -> None:
    specified = YAML(typ="safe").load(SPECIFIED)
    shipped = YAML(typ="safe").load(default_path("deployment").read_text())
    assert list(shipped) == ["deployment"]
    loaded = load_settings(default_path("deployment"), DeploymentSettings, section="deployment").model_dump()
    for section, keys in specified.items():
        for key, value in keys.items():
            assert shipped["deployment"][section][key] == value
            assert loaded[section][key] == value


def test_validation_default_keeps_the_specified_thresholds() -> None:
    settings = load_settings(default_path("validation"), ValidationSettings, section="validation")
    assert settings.max_latency_ms == 20
    assert (settings.sim_validation_episodes, settings.sim_success_threshold) == (100, 0.8)
    assert (settings.hil_validation_episodes, settings.hil_success_threshold) == (50, 0.7)
    assert settings.strict
    assert settings.bench_test_required
    assert settings.ground_test_required


def test_deployment_thresholds_win_over_the_validation_file() -> None:
    base = ValidationSettings(sim_success_threshold=0.5, safety=SafetySettings(extends="default", roll_max=40))
    deployment = DeploymentSettings(safety=SafetySettings(max_range_m=300))
    merged = deployment.validation_settings(base)
    assert merged.sim_success_threshold == 0.8
    safety = resolve_safety(merged.safety)
    assert (safety.max_range_m, safety.roll_max, safety.aileron_max) == (300, 40, 25)


def test_resolved_safety_is_complete_and_the_block_wins() -> None:
    resolved = resolve_safety(SafetySettings(extends="default", aileron_max=10))
    assert resolved.extends is None
    assert resolved.aileron_max == 10
    assert resolved.elevator_max == 25
    for name in AIRFRAMES:  # what belongs to the airframe stands in its own file, and nowhere twice
        own = load_settings(default_path("safety", name), SafetySettings, section="safety").values
        assert set(own) | set(resolved.values) == set(SafetySettings.model_fields) - {"extends"}
        assert not set(own) & set(resolved.values)


def test_without_extends_missing_stays_missing() -> None:
    assert resolve_safety(SafetySettings(aileron_max=10)).values == {"aileron_max": 10}


def test_extending_a_file_that_extends_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loop.yaml"
    path.write_text(f"safety:\n  extends: {path}\n")
    with pytest.raises(ConfigError, match="circle"):
        resolve_safety(SafetySettings(extends=str(path)))


def test_extending_an_unknown_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match="no shipped configuration safety/nowhere"):
        resolve_safety(SafetySettings(extends="nowhere"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "validation:\n  max_latencyms: 20\n",
            r"v\.yaml:2: unknown key 'validation\.max_latencyms'; did you mean 'max_latency_ms'",
        ),
        ("validation:\n  strict: perhaps\n", r"v\.yaml:2: validation\.strict: .*boolean"),
        (
            "validation:\n  seed: 1\n  sim_success_threshold: 1.2\n",
            r"v\.yaml:3: validation\.sim_success_threshold: .*less than 1",
        ),
        ("validation:\n  latency_samples: 100\n", r"v\.yaml:2: .*greater than or equal to 300"),
        (
            "validation:\n  environment:\n    disturbances:\n      wind_mps: [6, 0]\n",
            r"v\.yaml:4: .*6\.0 is above 0\.0",
        ),
        ("validation:\n  safety:\n    kill_swich_enabled: true\n", r"v\.yaml:3: .*did you mean 'kill_switch_enabled'"),
        ("thresholds:\n  strict: true\n", r"v\.yaml:1: unknown key 'thresholds'"),
        ("validation: [\n", r"v\.yaml:\d+: not valid YAML"),
        ("- 1\n", r"expected `key: value` lines"),
    ],
)
def test_mistakes_are_named_by_line_and_closest_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(text, ValidationSettings, source="v.yaml", section="validation")
    assert re.search(message, str(caught.value))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deployment:\n  target:\n    platform: jetson_nanoo\n", "platform"),
        ("deployment:\n  optimization:\n    pruning_amount: 30\n", "less than 1"),
        ("deployment:\n  optimization:\n    quantization_type: int4\n", "int8"),
        ("deployment:\n  safty: {}\n", "did you mean 'safety'"),
    ],
)
def test_mistakes_in_the_deployment_file(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_settings(text, DeploymentSettings, source="d.yaml", section="deployment")


@pytest.mark.parametrize(
    ("given", "opened"),
    [
        ("", "local:out/target"),
        ("local:x", "local:x"),
        ("pi@10.0.0.2", "ssh://pi@10.0.0.2/home/jetson/controls/models"),
        ("host", "ssh://jetson@192.168.1.100/home/jetson/controls/models"),
        ("ssh://pi@10.0.0.2:2222/~/x", "ssh://pi@10.0.0.2:2222/~/x"),
    ],
)
def test_what_a_target_on_the_command_line_means(given: str, opened: str) -> None:
    from sim2sky.deployment.deploy_plan import DeployPlan

    settings = load_settings(default_path("deployment"), DeploymentSettings, section="deployment")
    plan = DeployPlan("hawk", Path("model.zip"), Path("out"), settings, ValidationSettings(), given)
    assert plan.target_name == opened
