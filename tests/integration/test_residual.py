"""The bounded residual: the champion's equal at first, never farther from it than its authority, champion untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retrain_support import AGENTS, PATCH, champion
from sim2sky.agent.sb3 import load
from sim2sky.errors import NotSupportedError
from sim2sky.training.refit import refit_settings
from sim2sky.training.residual import AUTHORITY, WIDTH, bind_residual, train_residual, widened
from sim2sky.training.starting_point import open_starting_point
from sim2sky.training.train import make_env, make_model

HAWK = open_starting_point(AGENTS / "hawk" / "model.zip")


def means(state, rows):
    """The policy's mean before clipping, (n, 4), of normalised observations; in float64."""
    x = rows.astype(np.float64)
    for i in (0, 2):
        w, b = state[f"mlp_extractor.policy_net.{i}.weight"], state[f"mlp_extractor.policy_net.{i}.bias"]
        x = np.tanh(x @ w.T.astype(np.float64) + b)
    return x @ state["action_net.weight"].T.astype(np.float64) + state["action_net.bias"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("residual")
    start = open_starting_point(champion(folder, n_steps="64", batch_size="64", n_envs="4"))
    run = refit_settings(start, PATCH.apply(start.settings.environment), 1024, 0)
    assert train_residual(start, run, folder / "run").finished
    return start, folder / "run" / "model.zip"


def pushed(steps=30, rate=10.0, seed=0):
    """A residual driven as hard as an optimiser can: huge steps along random gradients."""
    run = refit_settings(HAWK, HAWK.settings.environment, 1000, seed)
    model = make_model(run, make_env(run), None, widened(HAWK, seed=seed))
    bind_residual(model, HAWK.net_arch["pi"])
    for group in model.policy.optimizer.param_groups:
        group["lr"] = rate
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        model.policy.optimizer.zero_grad()
        for parameter in model.policy.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            (parameter * noise).sum().backward()
        model.policy.optimizer.step()
    return {k: v.detach().numpy().copy() for k, v in model.policy.state_dict().items()}


PUSHED = pushed()


def test_widened_answers_are_the_champions_own():
    wide = widened(HAWK, seed=3)
    assert wide.net_arch == {"pi": [64 + WIDTH, 64 + WIDTH], "vf": [64, 64]}
    rows = np.random.default_rng(0).normal(size=(500, 24))
    np.testing.assert_allclose(means(wide.state, rows), means(HAWK.state, rows), atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(arrays(np.float64, (3, 24), elements=st.floats(-1e3, 1e3)))
def test_the_bound_holds_for_any_observation_and_however_hard_it_was_trained(rows):
    change = np.abs(means(PUSHED, rows) - means(HAWK.state, rows))
    assert change.max() <= AUTHORITY + 1e-9


def test_the_bound_is_used_not_merely_kept():
    rows = np.random.default_rng(0).normal(size=(2000, 24))
    change = np.abs(means(PUSHED, rows) - means(HAWK.state, rows))
    assert change.max() > 0.5 * AUTHORITY


def test_the_champions_part_does_not_move_by_a_bit():
    for name, value in HAWK.state.items():
        if not name.startswith(("mlp_extractor.policy_net", "action_net")):
            continue
        part = PUSHED[name][tuple(slice(0, n) for n in value.shape)]
        np.testing.assert_array_equal(part, value)
    cross = PUSHED["mlp_extractor.policy_net.2.weight"]
    assert not cross[:64, 64:].any()
    assert not cross[64:, :64].any()
    assert PUSHED["mlp_extractor.policy_net.0.weight"][64:].any()


def test_without_the_projection_the_bound_breaks(monkeypatch):
    """Negative control: the same pushing, with the projection's limit taken away."""
    monkeypatch.setattr("sim2sky.training.residual.AUTHORITY", 1e9)
    rows = np.random.default_rng(0).normal(size=(200, 24))
    assert np.abs(means(pushed(steps=5), rows) - means(HAWK.state, rows)).max() > AUTHORITY


def test_a_trained_residual_is_an_ordinary_agent_within_its_authority(trained):
    start, path = trained
    old, new = load(start.path), load(path)
    rng = np.random.default_rng(1)
    rows = {"observation": rng.normal(0.0, 2.0, (400, 24)).astype(np.float32)}
    change = np.abs(new.sb3_predict(rows, None) - old.sb3_predict(rows, None))
    assert 0.0 < change.max() <= AUTHORITY + 0.02  # the normaliser may have moved a little as well
    again = open_starting_point(path)
    assert again.net_arch["pi"] == [64 + WIDTH, 64 + WIDTH]
    for name in ("mlp_extractor.policy_net.0.weight", "action_net.weight"):
        rows_, columns = start.state[name].shape
        np.testing.assert_array_equal(again.state[name][:rows_, :columns], start.state[name])


def test_a_residual_flies_as_a_bundle(trained, tmp_path):
    from sim2sky.deployment.bundling import export_bundle

    exported = export_bundle(trained[1], tmp_path / "bundle", agent_name="residual")
    assert exported.errors["onnx"] < 1e-5


@pytest.mark.parametrize(("agent", "changes"), [("kite", {}), ("hawk", {"activation": "relu"})])
def test_architectures_that_cannot_be_bounded_are_refused(tmp_path, agent, changes):
    start = open_starting_point(champion(tmp_path, agent, **changes))
    with pytest.raises(NotSupportedError, match="not supported: a residual"):
        widened(start, seed=0)
