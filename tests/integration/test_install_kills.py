"""The benchmark of killed installations in short: no target without a complete verified release, and the control."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from benchmarks.install_kills import POINTS, campaign, install_in_place, problem_of
from tests.deploy_support import deliver, local_target, make_bundle


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.slow
def test_killed_at_random_points_there_is_always_a_complete_release(tmp_path: Path) -> None:
    found = campaign(tmp_path, 30, seed=1)
    assert found.bad == []
    assert sum(found.kills.values()) == 30
    assert found.undisturbed >= 5
    assert set(found.kills) <= set(POINTS)
    assert len(found.kills) >= 4


def test_the_check_catches_an_installer_that_copies_in_place(tmp_path: Path) -> None:
    """Negative control: writing over the active release, however carefully, loses it."""
    found = campaign(tmp_path, 30, seed=1, installer=install_in_place, points=("copy",))
    assert len(found.bad) == 1


def test_the_check_names_what_is_wrong(tmp_path: Path) -> None:
    target = local_target(tmp_path / "target")
    root = tmp_path / "target"
    assert "nothing is installed" in problem_of(root, set())
    name = str(deliver(target, make_bundle(tmp_path / "b"))["release"])
    assert problem_of(root, {name}) == ""
    assert "which is none of" in problem_of(root, {"another"})
    half = root / "native" / name
    half.mkdir(parents=True)
    assert "native.json" in problem_of(root, {name})  # a compiled policy without its record
    half.rmdir()
    (root / "releases" / name / "fly").write_text("x")
    assert "fly has 1 bytes" in problem_of(root, {name})
