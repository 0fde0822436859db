"""Whatever ends an installation, and in whatever order, the active release is the last one that was committed."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim2sky.deployment.local_target import LocalTarget
from tests.deploy_support import make_bundle

from sim2sky.agent.bundle import Bundle
from sim2sky.deployment.install import STATES, active_release, install, recover, revert
from sim2sky.deployment.launch import resolve


class Died(BaseException):
    """A process that was killed: nothing after this point runs, so no clean-up either."""


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A prepared target folder, and copies of three staged releases."""
    folder = tmp_path_factory.mktemp("staged")
    target = LocalTarget(folder / "target")
    releases: dict[str, Path] = {}
    for seed in range(3):
        bundle: Bundle = make_bundle(folder / f"b{seed}", seed=seed)
        name = target.stage(bundle)
        releases[name] = (target.root / "incoming" / name).rename(folder / name)
    return target.root, releases


actions = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["", *STATES]), st.sampled_from(["error", "kill", "revert"])),
    min_size=1,
    max_size=6,
)


@given(actions)
@settings(max_examples=40, deadline=None)
def test_the_active_release_is_the_last_committed_one(
    staged: tuple[Path, dict[str, Path]], sequence: list[tuple[int, str, str]]
) -> None:
    template, releases = staged
    names = sorted(releases)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "target"
        shutil.copytree(template, root, symlinks=True)
        committed: str | None = None
        before: str | None = None
        for index, state, how in sequence:
            if how == "revert":
                if committed is not None:
                    committed, before = revert(root), None
                assert active_release(root) == committed
                continue
            name = names[index]
            shutil.copytree(releases[name], root / "incoming" / name, dirs_exist_ok=True)

            def on_state(now: str, state: str = state, how: str = how) -> None:
                if now == state:
                    raise Died if how == "kill" else RuntimeError(f"error in {now}")

            try:
                if how == "kill" and state:
                    _killed(root, name, on_state)
                else:
                    install(root, name, check=lambda *_: {"passed": True}, on_state=on_state)
                    committed, before = name, committed
            except (RuntimeError, Died):
                pass
            assert active_release(root) == committed
            if committed is not None:
                assert resolve(root, "current").name == committed
        recover(root)
        assert active_release(root) == committed
        assert list((root / "incoming").iterdir()) == []
        link = root / "current"
        assert (link.readlink().name if link.is_symlink() else None) == committed
        assert before is None or (root / "releases" / before).is_dir() or committed == before


def _killed(root: Path, name: str, on_state: object) -> None:
    """Run the installer and drop it where the hook says, without its clean-up: what SIGKILL leaves on the disk."""
    from sim2sky.deployment import install as module

    clean_up = module.recover
    calls = 0

    def first_only(*arguments: object, **named: object) -> str | None:
        nonlocal calls
        calls += 1
        return clean_up(*arguments, **named) if calls == 1 else None  # type: ignore[arg-type]

    module.recover = first_only
    try:
        install(root, name, check=lambda *_: {"passed": True}, on_state=on_state)  # type: ignore[arg-type]
    finally:
        module.recover = clean_up
