"""Fleet files: what each target ends up with, and mistakes named by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim2sky.config.fleet import FleetSettings, load_fleet
from sim2sky.errors import ConfigError


def fleet(folder: Path, text: str) -> FleetSettings:
    path = folder / "fleet.yaml"
    path.write_text(text)
    return load_fleet(path)


def test_each_target_has_its_own_files_or_the_fleets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = fleet(
        tmp_path,
        """
fleet:
  known_hosts: hangar_hosts
  key: ~/.ssh/hangar
  targets:
    - {name: one, url: "ssh://pi@one/opt/x"}
    - {name: two, url: "ssh://pi@two/opt/x", known_hosts: /etc/two, key: keys/two}
""",
    )
    one, two = found.targets
    assert (one.known_hosts, one.key) == (tmp_path / "hangar_hosts", Path("/home/me/.ssh/hangar"))
    assert (two.known_hosts, two.key) == (Path("/etc/two"), tmp_path / "keys" / "two")
    assert found.parallel == 4


def test_without_files_it_is_as_ssh_would_do(tmp_path: Path) -> None:
    (target,) = fleet(tmp_path, "fleet:\n  targets:\n    - {name: one, url: 'ssh://pi@one/opt/x'}\n").targets
    assert target.known_hosts is None
    assert target.key is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fleet:\n  targets: []\n", "fleet.yaml:2: fleet.targets: Tuple should have at least 1 item"),
        ("fleet:\n  parallel: 2\n", "targets: Field required"),
        ("fleet:\n  targets:\n    - {name: a}\n", "fleet.yaml:3: fleet.targets.0.url: Field required"),
        ("fleet:\n  targets:\n    - {url: 'local:x'}\n", "fleet.targets.0.name: Field required"),
        ("fleet:\n  targets:\n    - {name: a/b, url: 'local:x'}\n", "a name is made of letters"),
        ("fleet:\n  targets:\n    - {name: ../a, url: 'local:x'}\n", "a name is made of letters"),
        ("fleet:\n  targets:\n    - {name: a, url: 'local:x', password: y}\n", "fleet.yaml:3: unknown key"),
        ("fleet:\n  parallel: 0\n  targets:\n    - {name: a, url: 'local:x'}\n", "fleet.yaml:2: fleet.parallel"),
        ("targets:\n  - {name: a, url: 'local:x'}\n", "fleet.yaml:1: unknown key 'targets'"),
        (
            "fleet:\n  targets:\n    - {name: a, url: 'local:x'}\n    - {name: a, url: 'local:y'}\n",
            "two targets have the name 'a'",
        ),
        (
            "fleet:\n  targets:\n    - {name: a, url: 'local:x'}\n    - {name: b, url: 'local:x'}\n",
            "two targets have the url 'local:x'",
        ),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fleet(tmp_path, text)
    assert message in caught.value.message
    assert caught.value.exit_code == 2


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_fleet(tmp_path / "none.yaml")
