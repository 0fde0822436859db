"""Golden vectors: what is chosen, how it travels, and how answers are compared. No torch needed."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sim2sky.agent.contract import ActionSignal, Contract, Input, Output, Signal
from sim2sky.agent.golden import (
    GoldenVectors,
    golden_from_bytes,
    golden_to_bytes,
    load_golden,
    make_golden,
    max_error,
    save_golden,
)
from sim2sky.agent.layers import ArgMax, Clip, Dense, InputHead, Network, Normalise, OneHot, evaluate
from sim2sky.errors import AgentError, GoldenMismatchError


def agent_of(network: Network, contract: Contract) -> Any:
    def predict(observations: dict[str, Any], episode_start: Any = None) -> Any:
        return evaluate(network, observations)[0]

    return SimpleNamespace(network=network, contract=contract, sb3_predict=predict)


def box_agent(low: float = -10.0, high: float = 10.0, *, normalise: bool = False) -> Any:
    rng = np.random.default_rng(0)
    layers = (Normalise(np.array([1.0, 500.0, -3.0]), np.array([0.1, 9.0, 1.0]), 1e-8, 10.0),) if normalise else ()
    network = Network(
        (InputHead("observation", 3, layers),),
        (
            Dense(rng.normal(size=(2, 3)).astype("f4"), np.zeros(2, "f4")),
            Clip(np.float32([-2, 0]), np.float32([2, 1])),
        ),
    )
    signals = tuple(Signal(f"s{i}", "", "", low, high) for i in range(3))
    actions = (ActionSignal("a", "", -2, 2, -2, 0, 2), ActionSignal("b", "", 0, 1, 0, 0.5, 1))
    contract = Contract(
        "", "", 0, (Input("observation", "box", (3,), "float32", signals),), Output("continuous", actions)
    )
    return agent_of(network, contract)


def discrete_agent() -> Any:
    rng = np.random.default_rng(1)
    network = Network(
        (InputHead("mode", 1, (OneHot((4,)),)), InputHead("x", 2)),
        (Dense(rng.normal(size=(3, 6)).astype("f4"), np.zeros(3, "f4")), ArgMax((3,))),
    )
    inputs = (
        Input("mode", "discrete", (), "int64", (Signal("mode", "", "", 0, 3),), (4,)),
        Input("x", "box", (2,), "float64", tuple(Signal(f"x{i}", "", "", -np.inf, np.inf) for i in range(2))),
    )
    return agent_of(network, Contract("", "", 0, inputs, Output("discrete", (), (3,))))


def test_every_kind_of_row_is_there() -> None:
    golden = make_golden(box_agent(), seed=0)
    counts = {str(k): int(n) for k, n in zip(*np.unique(golden.kind, return_counts=True), strict=True)}
    assert set(counts) == {"sampled", "corner", "saturating", "out_of_range"}
    assert min(counts.values()) >= 20
    x = golden.observations["observation"]
    assert x.dtype == np.float32
    assert (np.abs(x[golden.kind == "corner"]) == 10).all()
    assert (np.abs(x[golden.kind == "out_of_range"]) == 20).any()
    assert (np.abs(x[golden.kind == "saturating"]) == 80).any()
    assert (np.abs(x[golden.kind == "sampled"]) <= 10).all()


def test_samples_follow_the_normaliser() -> None:
    golden = make_golden(box_agent(normalise=True), seed=0)
    x = golden.observations["observation"][golden.kind == "sampled"]
    assert np.allclose(x.mean(axis=0), [1, 500, -3], atol=1.5)
    normalised = (golden.observations["observation"] - [1, 500, -3]) / np.sqrt([0.1, 9, 1])
    assert (np.abs(normalised) > 10).any(), "no row reaches the normaliser's clip"


def test_unlimited_and_huge_boxes_give_plausible_values() -> None:
    for limit in (np.inf, 3.4e38):
        golden = make_golden(box_agent(-limit, limit), seed=0)
        assert np.isfinite(golden.observations["observation"]).all()
        assert np.abs(golden.observations["observation"]).max() < 100


def test_categories_all_occur_and_near_ties_do_not() -> None:
    agent = discrete_agent()
    golden = make_golden(agent, seed=0)
    assert golden.action.dtype.kind == "i"
    assert set(golden.observations["mode"].tolist()) == {0, 1, 2, 3}
    assert golden.observations["x"].dtype == np.float32
    logits = evaluate(Network(agent.network.inputs, agent.network.layers[:-1]), golden.observations)[0]
    top = np.sort(logits, axis=1)
    assert (top[:, -1] - top[:, -2]).min() > 1e-4


def test_the_seed_decides() -> None:
    first, second, third = (golden_to_bytes(make_golden(box_agent(), seed=s)) for s in (1, 1, 2))
    assert first == second != third


def test_rollout_observations_are_used() -> None:
    flight = np.random.default_rng(2).normal(size=(1000, 3)).astype(np.float32)
    golden = make_golden(box_agent(), seed=0, rollout={"observation": flight})
    rows = golden.observations["observation"][golden.kind == "rollout"]
    assert len(rows) > 150
    assert {tuple(r) for r in rows.tolist()} <= {tuple(r) for r in flight.tolist()}
    assert len(golden) == 256
    few = make_golden(box_agent(), seed=0, rollout={"observation": flight[:5]})
    assert len(few) == 256
    assert (few.kind == "rollout").sum() <= 5


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        ({}, "no observations 'observation'"),
        ({"observation": np.zeros((10, 4))}, "shape"),
        ({"observation": np.zeros((0, 3))}, "not be empty"),
        ({"observation": np.full((10, 3), np.nan)}, "not all finite"),
    ],
)
def test_a_rollout_that_does_not_fit(rollout: Any, message: str) -> None:
    with pytest.raises(AgentError, match=message):
        make_golden(box_agent(), seed=0, rollout=rollout)


def test_fewer_than_256_are_refused() -> None:
    with pytest.raises(AgentError, match="too few"):
        make_golden(box_agent(), n=255, seed=0)
    assert len(make_golden(box_agent(), n=400, seed=0)) == 400


def test_errors_are_relative_to_the_action_box() -> None:
    golden = make_golden(box_agent(), seed=0)
    assert golden.scale is not None
    assert golden.scale.tolist() == [2, 1]
    assert max_error(golden, golden.action) == 0
    off = golden.action.astype(float)
    off[17, 0] += 0.02
    assert max_error(golden, off) == pytest.approx(0.01)
    off[0, 1] = np.nan
    assert max_error(golden, off) == np.inf


def test_answers_of_another_shape_are_refused() -> None:
    golden = make_golden(box_agent(), seed=0)
    for wrong in (golden.action[:-1], golden.action[:, :1], np.zeros(()), "text", None):
        with pytest.raises(GoldenMismatchError):
            max_error(golden, wrong)


def test_discrete_answers_compare_exactly() -> None:
    golden = make_golden(discrete_agent(), seed=0)
    assert max_error(golden, golden.action.reshape(-1, 1)) == 0
    other = golden.action.copy()
    other[5] = (other[5] + 1) % 3
    assert max_error(golden, other) >= 1


@pytest.mark.parametrize("agent", [box_agent(), discrete_agent()])
def test_what_is_saved_comes_back(agent: Any, tmp_path: Path) -> None:
    golden = make_golden(agent, seed=0)
    save_golden(golden, tmp_path / "golden.npz")
    again = load_golden(tmp_path / "golden.npz")
    for spec in dataclasses.fields(golden):
        ours, theirs = getattr(golden, spec.name), getattr(again, spec.name)
        if isinstance(ours, dict):
            assert list(ours) == list(theirs)
            assert all(np.array_equal(ours[k], theirs[k]) and ours[k].dtype == theirs[k].dtype for k in ours)
        else:
            assert (ours is None and theirs is None) or np.array_equal(ours, theirs)
    assert [p.name for p in tmp_path.iterdir()] == ["golden.npz"]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    data = golden_to_bytes(make_golden(box_agent(), seed=0))
    for bad in (b"", b"x", data[: len(data) // 2], data[:-1], b"PK\x05\x06" + b"\0" * 18):
        with pytest.raises(AgentError, match="cannot be read"):
            golden_from_bytes(bad)
    with pytest.raises(AgentError, match="cannot read"):
        load_golden(tmp_path / "nothing.npz")
    with pytest.raises(AgentError, match="cannot write"):
        save_golden(golden_from_bytes(data), tmp_path / "missing" / "golden.npz")


def test_pickled_arrays_are_not_loaded() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, order=np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(AgentError, match="cannot be read"):
        golden_from_bytes(buffer.getvalue())


def test_arrays_that_do_not_fit_together() -> None:
    golden = make_golden(box_agent(), seed=0)
    for change in (
        {"kind": golden.kind[:-1]},
        {"episode_start": np.zeros(3, "f4")},
        {"observations": {"observation": golden.observations["observation"][:9]}},
        {"scale": np.ones(3)},
        {"scale": np.zeros(2)},
        {"observations": {}},
    ):
        broken = golden_to_bytes(dataclasses.replace(golden, **change))
        with pytest.raises(AgentError):
            golden_from_bytes(broken)


def test_a_zip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim2sky.agent.golden.MAX_BYTES", 1 << 20)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("action.npy", b"\0" * (2 << 20))
    with pytest.raises(AgentError, match="would take more"):
        golden_from_bytes(buffer.getvalue())


def test_length() -> None:
    empty = GoldenVectors({"o": np.zeros((2, 1))}, np.zeros((2, 1), "f4"), None, np.array(["a", "b"]))
    assert len(empty) == 2
