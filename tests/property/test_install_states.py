"""Whatever ends an installation, and in whatever order, the active release is the last one that was committed."""

import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.deploy_support import KEY, make_bundle, make_release

from sim2sky.deployment import install as module
from sim2sky.deployment.install import STATES, go_back, install, recover, status
from sim2sky.deployment.launch import resolve
from sim2sky.deployment.release_check import verify_release
from sim2sky.deployment.target_state import TargetState
from sim2sky.errors import TargetError


class Died(BaseException):
    """A process that was killed: nothing after this point runs, so no clean-up either."""


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three signed releases, by version."""
    folder = tmp_path_factory.mktemp("staged")
    made = [make_release(make_bundle(folder / f"b{seed}", seed=seed), version=seed + 1) for seed in range(3)]
    return [r.path.rename(folder / r.name) for r in made]


actions = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["", *STATES]), st.sampled_from(["error", "kill", "back", "refuse"])),
    min_size=1,
    max_size=6,
)


@given(actions)
@settings(max_examples=40, deadline=None)
def test_the_active_release_is_the_last_committed_one(
    releases: list[Path], sequence: list[tuple[int, str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "target"
        root.mkdir()
        state = TargetState(str(root))
        with state.locked():
            state.add_key(KEY.line, first=True)
        active: str | None = None
        previous: str | None = None
        highest = 0
        for index, where, how in sequence:
            if how in ("back", "refuse"):
                if active is not None and (previous is not None or how == "refuse"):
                    active, previous = previous, (active if how == "back" else None)
                    assert go_back(str(root), refused=how == "refuse")["release"] == active
                else:
                    with pytest.raises(TargetError):
                        go_back(str(root), refused=how == "refuse")
            else:
                shutil.copytree(releases[index], root / "incoming" / releases[index].name, dirs_exist_ok=True)
                verified = index + 1 >= highest and where != "download"
                committed = index + 1 >= highest and where in ("", "cleanup")
                _attempt(root, releases[index].name, where, how, refused=index + 1 < highest)
                if verified and where != "verify":
                    highest = max(highest, index + 1)
                if committed and active != releases[index].name:
                    active, previous = releases[index].name, active
            journal = state.journal()
            assert (journal["active"], journal["previous"]) == (active, previous)
            assert state.highest_seen()["version"] == highest
            if active is not None:
                assert Path(resolve(str(root), "current")).name == active
                verify_release(state.release(active), state.trust())
        with state.locked():
            recover(state)
        assert list((root / "incoming").iterdir()) == []
        assert {p.name for p in (root / "releases").iterdir()} == {active, previous} - {None}
        assert state.current() == active
        assert active is None or status(str(root))["problems"] == []


def _attempt(root: Path, name: str, where: str, how: str, *, refused: bool) -> None:
    """Install, and be ended before the state `where` by an error, or as by SIGKILL: without any clean-up."""

    def on_state(now: str) -> None:
        if now == where:
            raise Died if how == "kill" else RuntimeError(f"error in {now}")

    clean_up, calls = module.recover, 0

    def first_only(*arguments: object, **named: object) -> str | None:
        nonlocal calls
        calls += 1
        return clean_up(*arguments, **named) if calls == 1 or how != "kill" or not where else None  # type: ignore[arg-type]

    module.recover = first_only  # type: ignore[assignment]
    try:
        install(str(root), name, check=lambda *_: {"passed": True}, now_s=time.time(), on_state=on_state)
        assert not where and not refused
    except (RuntimeError, Died):
        assert where
    except TargetError as error:
        assert refused and "highest seen" in error.message
    finally:
        module.recover = clean_up
