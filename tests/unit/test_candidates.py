"""A candidate replaces the float model only if it pays and is not worse in closed loop; fp32 wins otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.export_support import golden_of, observations, policy

from sim2sky.agent.layers import Network
from sim2sky.deployment.candidates import (
    BASELINE,
    METHODS,
    Candidate,
    Flight,
    Measurement,
    Table,
    candidates_for,
    measure,
)
from sim2sky.deployment.choice import Rules, choose, growth_bound, mcnemar_p, render_table
from sim2sky.deployment.onnx_emitter import emit_onnx, model_to_bytes
from sim2sky.deployment.verification import parse_model
from sim2sky.errors import ConfigError, ExportError, GoldenMismatchError

N = 100


def outcomes(lost: int = 0, won: int = 0, base: int = 90) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Success per seed of baseline and candidate: `lost` of the baseline's successes fail, `won` failures succeed."""
    baseline = [True] * base + [False] * (N - base)
    other = baseline.copy()
    for i in range(lost):
        other[i] = False
    for i in range(won):
        other[base + i] = True
    return tuple(baseline), tuple(other)


def flown_like(successes: Sequence[bool], growth: float = 1.0, activity: float = 1.0) -> tuple[Flight, ...]:
    """Flights with those successes; errors scatter over seeds alike for every candidate, times `growth`."""
    rng = np.random.default_rng(1)
    drawn = zip(successes, rng.lognormal(size=len(successes)), rng.uniform(1, 3, len(successes)), strict=True)
    return tuple(Flight(s, float(e * growth), float(a * activity)) for s, e, a in drawn)


def row(
    name: str,
    size: int = 1000,
    latency: float = 1.0,
    *,
    rounds_won: float | None = None,
    successes: Sequence[bool] | None = outcomes()[0],
    max_error: float = 0.01,
    growth: float = 1.0,
    activity: float = 1.0,
) -> Measurement:
    won = (1.0 if latency < 1 else 0.0) if rounds_won is None else rounds_won
    flown = None if successes is None else flown_like(successes, growth, activity)
    return Measurement(
        Candidate(name, b"x" * size), size, 10 * latency, 20 * latency, latency, won, max_error, max_error / 5, flown
    )


def decide(*rows: Measurement, rules: Rules | None = None, base: Measurement | None = None) -> str:
    decision = choose(Table((base or row(BASELINE, max_error=0.0), *rows)), rules)
    assert decision.kept.candidate.name in decision.sentence
    return decision.kept.candidate.name


def test_smaller_and_as_good_is_kept() -> None:
    assert decide(row("int8", 400, 1.0)) == "int8"


def test_faster_and_as_good_is_kept() -> None:
    assert decide(row("pruned", 1000, 0.6)) == "pruned"


def test_size_must_not_be_paid_for_with_speed_nor_speed_with_size() -> None:
    assert decide(row("int8", 400, 1.05)) == "int8"
    assert decide(row("int8", 400, 1.5)) == BASELINE
    assert decide(row("wide", 1500, 0.5)) == BASELINE
    table = Table((row(BASELINE), row("int8", 400, 1.5)))
    assert "2.50x smaller and 1.50x slower: more than 10% of cost" in choose(table).verdicts["int8"]


@pytest.mark.parametrize("what", ["growth", "activity"])
def test_tracking_error_or_action_rate_that_grows_is_refused_though_every_episode_succeeds(what: str) -> None:
    assert decide(row("int8", 400, **{what: 1.04})) == "int8"
    assert decide(row("int8", 400, **{what: 1.06})) == BASELINE
    words = {"growth": "tracking error", "activity": "action rate"}[what]
    verdict = choose(Table((row(BASELINE), row("int8", 400, **{what: 1.2})))).verdicts["int8"]
    assert f"its {words} may be larger up to 20%, 5% are allowed" in verdict


@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=30), st.floats(0.5, 2))
def test_growth_bound_of_a_constant_ratio_is_that_ratio(values: list[float], ratio: float) -> None:
    assert growth_bound(values, [v * ratio for v in values]) == pytest.approx(ratio, rel=1e-6)


def test_growth_bound_covers_the_true_ratio_in_95_percent() -> None:
    rng = np.random.default_rng(0)
    base = np.ones(20)
    covered = [growth_bound(base, base * np.exp(rng.normal(0.1, 0.3, 20))) >= np.exp(0.1) for _ in range(2000)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_growth_bound_of_nothing_is_infinite() -> None:
    assert growth_bound([float("nan"), 1.0], [1.0, 0.0]) == float("inf")


@pytest.mark.parametrize(("size", "latency"), [(1500, 1.2), (1000, 1.0), (950, 0.95), (1001, 1.5)])
def test_neither_smaller_nor_faster_is_refused(size: int, latency: float) -> None:
    assert decide(row("x", size, latency)) == BASELINE


def test_a_lucky_median_is_not_faster() -> None:
    assert decide(row("x", 1000, 0.8, rounds_won=0.6)) == BASELINE
    assert decide(row("x", 1000, 0.8, rounds_won=0.95)) == "x"


def test_significantly_worse_in_closed_loop_is_refused_however_small() -> None:
    base, worse = outcomes(lost=10)
    assert decide(row("tiny", 10, 0.1, successes=worse), base=row(BASELINE, successes=base)) == BASELINE
    decision = choose(Table((row(BASELINE, successes=base), row("tiny", 10, 0.1, successes=worse))))
    assert "significantly worse" in decision.verdicts["tiny"]
    assert "80 of 100 successes against 90" in decision.verdicts["tiny"]
    assert "stays" in decision.sentence


def test_an_insignificant_loss_above_the_margin_is_refused_too() -> None:
    base, worse = outcomes(lost=6, won=3)
    assert mcnemar_p(base, worse) > 0.2
    table = Table((row(BASELINE, successes=base), row("int8", 400, successes=worse)))
    assert choose(table).kept.candidate.name == BASELINE
    assert "more than the 2% allowed" in choose(table).verdicts["int8"]
    assert choose(table, Rules(max_success_loss=0.05)).kept.candidate.name == "int8"


def test_a_loss_within_the_margin_is_accepted() -> None:
    base, slightly = outcomes(lost=2)
    assert decide(row("int8", 400, successes=slightly), base=row(BASELINE, successes=base)) == "int8"


def test_significant_though_within_the_margin_is_refused() -> None:
    """5 losses, no win: 5 in 1000 is within 2 %, but it is no chance."""
    base = (True,) * 1000
    worse = (False,) * 5 + (True,) * 995
    assert mcnemar_p(base, worse) == pytest.approx(1 / 32)
    assert decide(row("int8", 400, successes=worse), base=row(BASELINE, successes=base)) == BASELINE


def test_better_in_closed_loop_is_no_reason_by_itself() -> None:
    base, better = outcomes(won=10)
    assert decide(row("big", 2000, 2.0, successes=better), base=row(BASELINE, successes=base)) == BASELINE


def test_without_flights_nothing_is_replaced_and_it_says_so() -> None:
    table = Table((row(BASELINE, successes=None), row("int8", 100, 0.1, successes=None)))
    decision = choose(table)
    assert decision.kept.candidate.name == BASELINE
    assert "Nothing was flown" in decision.sentence
    assert "nothing shows" in decision.verdicts["int8"]


def test_too_few_flights_replace_nothing() -> None:
    few = (True,) * 19
    assert decide(row("int8", 100, 0.1, successes=few), base=row(BASELINE, successes=few)) == BASELINE
    enough = (True,) * 20
    assert decide(row("int8", 100, 0.1, successes=enough), base=row(BASELINE, successes=enough)) == "int8"


def test_answers_that_are_not_finite_are_refused() -> None:
    assert decide(row("nan", 100, 0.1, max_error=float("inf"))) == BASELINE


def test_of_several_the_best_product_is_kept() -> None:
    worse = outcomes(lost=20)[1]
    rows = (row("a", 400, 1.05), row("b", 700, 0.7), row("c", 300, 0.9), row("d", 100, 0.1, successes=worse))
    for order in itertools.permutations(rows):
        assert decide(*order) == "c"


def test_alone_it_stays() -> None:
    decision = choose(Table((row(BASELINE),)))
    assert decision.kept.candidate.name == BASELINE
    assert "no other candidate" in decision.sentence


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_exact_binomial_tail(pairs: list[tuple[bool, bool]]) -> None:
    base, other = zip(*pairs, strict=True)
    lost = sum(b and not c for b, c in pairs)
    won = sum(c and not b for b, c in pairs)
    expected = stats.binomtest(lost, lost + won, alternative="greater").pvalue if lost + won else 1.0
    assert mcnemar_p(base, other) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_counts_only_the_seeds_that_differ() -> None:
    first = [True] * 90 + [True] * 9 + [False]
    second = [True] * 90 + [False] * 9 + [True]
    assert mcnemar_p(first, second) == pytest.approx(11 / 2**10)
    assert mcnemar_p([True, False], [True, False]) == 1.0


def test_mcnemar_needs_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        mcnemar_p([True], [True, False])


def test_the_table_holds_every_candidate_and_ends_in_the_decision() -> None:
    base, worse = outcomes(lost=15)
    table = Table((row(BASELINE, successes=base), row("int8", 400, 1.05), row("pruned", 500, 0.5, successes=worse)))
    text = render_table(choose(table))
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["candidate", "bytes"]
    for name in (BASELINE, "int8", "pruned"):
        assert sum(line.startswith(name) for line in lines) >= 2
    assert "75/100" in text
    assert "90/100" in text
    assert lines[-1].startswith("int8 replaces fp32: ")
    assert len({len(line) for line in lines[:4]}) == 1
    stays = render_table(choose(Table((row(BASELINE, successes=None), row("x", 2000, successes=None)))))
    assert stays.splitlines()[-1].startswith("fp32 stays")
    assert "  -" in stays


# ---- with real models ----


@pytest.fixture(scope="module")
def network() -> Network:
    return policy(3, (12, 64, 64), "tanh", "box")


@pytest.fixture(scope="module")
def built(network: Network) -> list[Candidate]:
    return candidates_for(network, observations=observations(network, 400), prune_amount=0.5)


def flights(rates: dict[bytes, float]) -> Callable[[bytes], list[Flight]]:
    """Flies the same 200 seeds for every model: seed i succeeds if its difficulty is below the model's skill."""
    difficulty = np.random.default_rng(0).random(200)

    def evaluate(model: bytes) -> list[Flight]:
        return list(flown_like([bool(d < rates.get(model, 0.95)) for d in difficulty]))

    return evaluate


def test_every_method_gives_a_valid_model_of_the_profile(network: Network, built: list[Candidate]) -> None:
    assert [c.name for c in built] == [BASELINE, *METHODS]
    assert built[0].model == model_to_bytes(emit_onnx(network, opset=17))
    assert built[0].network is network
    for candidate in built:
        model = parse_model(candidate.model)
        assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    assert built[-1].network is not None
    assert built[-1].note == "neurons 64-64 -> 32-32"
    assert [c.network for c in built[1:4]] == [None] * 3
    jetson = candidates_for(network, ["static_qdq"], observations=observations(network, 100), profile="jetson_nano")
    assert {parse_model(c.model).ir_version for c in jetson} == {7}


def test_measured_numbers_are_of_the_models(network: Network, built: list[Candidate]) -> None:
    golden = golden_of(network)
    table = measure(built, golden, flights({}), rounds=6, calls=20)
    base = table.baseline
    assert (base.latency_ratio, base.rounds_won) == (1.0, 0.0)
    assert base.max_error < 1e-5
    for measured in table.rows:
        assert measured.n_bytes == len(measured.candidate.model)
        assert 0.5 < measured.median_us <= measured.p99_us < 1e5
        assert measured.successes == base.successes
    for measured in table.rows[1:]:
        assert 1e-3 < measured.max_error < 3.0
        assert 0 < measured.mean_error < measured.max_error
        assert measured.n_bytes < 0.7 * base.n_bytes


def test_a_candidate_that_flies_worse_is_not_kept(network: Network, built: list[Candidate]) -> None:
    golden = golden_of(network)
    rates = {candidate.model: 0.80 for candidate in built[1:]}
    table = measure(built, golden, flights(rates), rounds=6, calls=20)
    decision = choose(table)
    assert decision.kept.candidate.name == BASELINE
    assert all("worse in closed loop" in decision.verdicts[m] for m in METHODS)
    good = choose(measure(built, golden, flights({}), rounds=6, calls=20))
    assert good.kept.candidate.name != BASELINE


def test_interleaved_rounds_share_the_drift(network: Network) -> None:
    """The clock runs slower and slower: ratios within a round stay near 1, a plain comparison of medians would not."""
    model = model_to_bytes(emit_onnx(network))
    reading = itertools.count()
    now = [0]

    def clock() -> int:
        now[0] += 1000 + next(reading)  # every call takes longer than the one before
        return now[0]

    table = measure(
        [Candidate(BASELINE, model), Candidate("same", model)], golden_of(network), rounds=50, calls=10, clock=clock
    )
    assert table.rows[1].latency_ratio == pytest.approx(1.0, abs=0.02)
    assert 0.3 < table.rows[1].rounds_won < 0.7
    assert choose(table).kept.candidate.name == BASELINE


def test_different_numbers_of_episodes_are_refused(network: Network) -> None:
    model = model_to_bytes(emit_onnx(network))
    lengths = iter((30, 29))
    with pytest.raises(ExportError, match="29 episodes"):
        measure(
            [Candidate(BASELINE, model), Candidate("x", model + b"")],
            golden_of(network),
            lambda _: [True] * next(lengths),
            rounds=1,
            calls=1,
        )


def test_golden_vectors_of_another_agent_are_refused(network: Network) -> None:
    other = policy(3, (5, 8))
    with pytest.raises(GoldenMismatchError):
        measure([Candidate(BASELINE, model_to_bytes(emit_onnx(other)))], golden_of(network), rounds=1, calls=1)


@pytest.mark.parametrize(("names", "rounds"), [([], 1), (["a", "a"], 1), (["a"], 0)])
def test_nothing_to_measure(names: list[str], rounds: int, network: Network) -> None:
    model = model_to_bytes(emit_onnx(network))
    with pytest.raises(ConfigError):
        measure([Candidate(n, model) for n in names], golden_of(network), rounds=rounds)


def test_recurrent_policies_are_measured_and_not_pruned() -> None:
    recurrent = policy(5, (12, 16), "tanh", "box", recurrent=1)
    golden = golden_of(recurrent, 256)
    rows = {**observations(recurrent, 100), "episode_start": (np.arange(100) % 25 == 0).astype(np.float32)}
    built = candidates_for(recurrent, observations=rows)
    assert [c.name for c in built] == [BASELINE, "dynamic_int8", "dynamic_uint8", "static_qdq"]
    table = measure(built, golden, rounds=2, calls=5)
    assert table.baseline.max_error < 1e-5
    assert all(1e-4 < r.max_error < 1 for r in table.rows[1:])


def test_discrete_policies_report_the_fraction_of_other_actions() -> None:
    discrete = policy(3, (12, 32), "relu", "argmax")
    golden = golden_of(discrete, 400)
    built = candidates_for(discrete, ["dynamic_int8"])
    table = measure(built, golden, rounds=1, calls=1)
    assert table.baseline.mean_error == 0.0
    assert 0.0 <= table.rows[1].mean_error < 0.3


def test_unknown_methods_and_missing_observations(network) -> None:
    with pytest.raises(ConfigError, match="int3"):
        candidates_for(network, ["int3"])
    for method in ("pruned", "static_qdq"):
        with pytest.raises(ConfigError, match="observations"):
            candidates_for(network, [method])
    assert [c.name for c in candidates_for(network, ["dynamic_int8"] * 2)] == [BASELINE, "dynamic_int8"]
