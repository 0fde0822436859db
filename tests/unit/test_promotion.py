"""The rule of promotion on made-up outcomes: who is promoted, who is not, and how often chance promotes the worse."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim2sky.config.environment import EnvironmentSettings
from sim2sky.environments.episode import EpisodeOutcome
from sim2sky.errors import ConfigError
from sim2sky.validation.promotion import PromotionRules, compare_flights, decide, tracking_score

ENVIRONMENT = EnvironmentSettings()
RULES = PromotionRules()


def outcome(seed, success=True, error=0.2, termination="completed", activity=2.0):
    """`error` in tolerances, the same in all three channels."""
    rmse = {
        "altitude_rmse_m": error * 10.0,
        "airspeed_rmse_mps": error * 2.0,
        "heading_rmse_rad": error * math.radians(10),
    }
    return EpisodeOutcome(seed, success, termination, 20.0, rmse, activity)


def flights(rng, n, *, success=0.99, error=0.2, spread=0.2):
    return [
        outcome(i, bool(rng.random() < success), float(error * np.exp(spread * rng.standard_normal())))
        for i in range(n)
    ]


def compared(champion, challenger, alpha=0.05):
    return compare_flights(champion, challenger, ENVIRONMENT, alpha=alpha)


def verdict(old, new, *, final=True):
    return decide(compared(*old), compared(*new, alpha=0.025), RULES, final=final)


def test_score_is_in_tolerances_and_a_crash_has_the_worst():
    assert tracking_score(outcome(0, error=0.5), ENVIRONMENT) == pytest.approx(0.5)
    assert tracking_score(outcome(0, error=0.1, termination="envelope: altitude"), ENVIRONMENT) == 3.0
    assert tracking_score(outcome(0, error=math.nan), ENVIRONMENT) == 3.0
    assert tracking_score(outcome(0, error=50.0), ENVIRONMENT) == 3.0


def test_better_on_the_new_and_as_good_on_the_old_is_promoted():
    rng = np.random.default_rng(0)
    old = flights(rng, 300), flights(rng, 300)
    new = flights(rng, 300, error=0.3), flights(rng, 300, error=0.2)
    outcome_, reason = verdict(old, new)
    assert outcome_ == "promoted", reason
    assert "tracking error 0.6" in reason


def test_better_by_success_alone_is_promoted():
    rng = np.random.default_rng(0)
    old = flights(rng, 300), flights(rng, 300)
    new = flights(rng, 300, success=0.7), flights(rng, 300, success=0.95)
    outcome_, reason = verdict(old, new)
    assert outcome_ == "promoted"
    assert "success" in reason


def test_equals_are_not_promoted():
    rng = np.random.default_rng(0)
    same = flights(rng, 400)
    outcome_, reason = verdict((same, same), (same, same))
    assert outcome_ == "champion stays"
    assert "no useful gain" in reason


@pytest.mark.parametrize(
    ("worse", "text"),
    [({"success": 0.7}, "succeeds less often in the old"), ({"error": 0.3}, "tracks worse in the old")],
)
def test_worse_on_the_old_is_refused_however_good_on_the_new(worse, text):
    rng = np.random.default_rng(0)
    old = flights(rng, 400), flights(rng, 400, **worse)
    new = flights(rng, 400, error=0.6, success=0.5), flights(rng, 400)
    outcome_, reason = verdict(old, new)
    assert outcome_ == "champion stays"
    assert text in reason


def test_better_tracking_at_the_price_of_success_on_the_new_is_refused():
    rng = np.random.default_rng(0)
    old = flights(rng, 400), flights(rng, 400)
    new = flights(rng, 400, error=0.3), flights(rng, 400, error=0.2, success=0.75)
    outcome_, reason = verdict(old, new)
    assert outcome_ == "champion stays"
    assert "new conditions" in reason


def test_few_pairs_decide_nothing():
    rng = np.random.default_rng(0)
    few = flights(rng, 10), flights(rng, 10, error=0.15)
    assert verdict(few, few, final=False)[0] == "undecided"
    outcome_, reason = verdict(few, few)
    assert outcome_ == "undecided"
    assert "the champion stays" in reason


def test_a_crash_counts_against_the_challenger():
    rng = np.random.default_rng(0)
    steady = flights(rng, 200)
    crashing = [replace(o, termination="envelope: x", success=False) if o.seed % 4 == 0 else o for o in steady]
    assert compared(steady, crashing).tracking_gain < 0.8
    assert verdict((steady, crashing), (steady, steady))[0] == "champion stays"


def test_other_seeds_are_no_pairs():
    with pytest.raises(ConfigError, match="same seeds"):
        compared([outcome(1)], [outcome(2)])
    with pytest.raises(ConfigError, match="same seeds"):
        compared([], [])


@pytest.mark.parametrize("bad", [{"alpha": 0.0}, {"success_margin": 0.0}, {"group": 0}, {"group": 50, "max_pairs": 40}])
def test_rules_that_make_no_sense_are_refused(bad):
    with pytest.raises(ConfigError):
        PromotionRules(**bad)


@pytest.mark.parametrize("worse", ["old success", "old tracking", "new equal"])
def test_chance_promotes_the_worse_in_at_most_alpha_of_the_runs(worse):
    """At the edge of what is allowed: exactly the margin worse on the old, or exactly equal on the new, peeked at."""
    rng = np.random.default_rng(11)
    promoted = 0
    for _ in range(40):
        old_kwargs = {"old success": {"success": 0.94}, "old tracking": {"error": 0.24}}.get(worse, {})
        old = flights(rng, 160), flights(rng, 160, **old_kwargs)
        gain = {"error": 0.3} if worse != "new equal" else {}
        new = flights(rng, 160, **gain), flights(rng, 160)
        promoted += any(
            verdict([f[:k] for f in old], [f[:k] for f in new], final=False)[0] == "promoted" for k in (80, 160)
        )
    assert promoted <= 7  # 99.9 % quantile of Binomial(40, .05)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.booleans(), st.floats(0.01, 5.0), st.floats(0.01, 5.0)), min_size=1, max_size=40
    )
)
def test_swapping_the_two_mirrors_the_comparison(rows):
    a = [outcome(i, r[0], r[2]) for i, r in enumerate(rows)]
    b = [outcome(i, r[1], r[3]) for i, r in enumerate(rows)]
    ab, ba = compared(a, b), compared(b, a)
    assert (ab.won, ab.lost) == (ba.lost, ba.won)
    assert ab.success_gain == pytest.approx(-ba.success_gain)
    assert ab.success_low == pytest.approx(-ba.success_high, abs=1e-9)
    assert ab.tracking_gain == pytest.approx(1.0 / ba.tracking_gain)
    assert ab.tracking_low == pytest.approx(1.0 / ba.tracking_high)
    both = decide(ab, ab, RULES, final=True)[0], decide(ba, ba, RULES, final=True)[0]
    assert both != ("promoted", "promoted")
