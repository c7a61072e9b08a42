"""A prior is believed as far as curves bear it out."""

from __future__ import annotations

import numpy as np
import pytest

from optuna_aelle.prediction.trust import trust_in


def drawn(weight: float, n: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, ...]:
    """What a prior expected, and ranks that are as a prior of this weight has it."""
    rng = np.random.default_rng(seed)
    expected = spread * rng.standard_normal(n) + 2.0
    reliability = rng.uniform(0.6, 0.95, n)
    share = weight * spread / np.hypot(weight * spread, 0.7)
    slopes = reliability * share
    ranks = slopes * (expected - expected.mean()) / expected.std()
    ranks = ranks + np.sqrt(1.0 - slopes**2) * rng.standard_normal(n)
    return expected, ranks, reliability


def average(weight: float, n: int, spread: float = 1.0) -> float:
    found = []
    for seed in range(40):
        expected, ranks, reliability = drawn(weight, n, seed, spread)
        found.append(trust_in(expected, 0.5, ranks, reliability))
    return float(np.mean(found))


def test_without_evidence_it_is_believed_for_the_most_part() -> None:
    none = np.zeros(0)
    assert trust_in(none, 0.5, none, none) > 0.6
    # All were expected to be equally good: nothing can be told.
    same = np.full(30, 1.5)
    ranks = np.random.default_rng(0).standard_normal(30)
    assert trust_in(same, 0.5, ranks, np.full(30, 0.8)) == trust_in(none, 0.5, none, none)


@pytest.mark.parametrize(("weight", "low", "high"), [(1.0, 0.85, 1.0), (-1.0, -1.0, -0.6)])
def test_curves_decide(weight: float, low: float, high: float) -> None:
    assert low < average(weight, 25) < high


def test_a_prior_that_knows_nothing_is_worth_nothing() -> None:
    assert abs(average(0.0, 60)) < 0.2


def test_the_more_evidence_the_less_is_believed_of_a_wrong_one() -> None:
    trusts = [average(-1.0, n) for n in (4, 8, 16, 32)]
    assert trusts == sorted(trusts, reverse=True)
    # Networks that are expected to be alike tell less.
    assert average(-1.0, 16, spread=0.2) > average(-1.0, 16)


def test_ranks_without_meaning_change_nothing() -> None:
    expected, ranks, _ = drawn(-1.0, 20, 0)
    none = np.zeros(0)
    assert trust_in(expected, 0.5, ranks, np.zeros(20)) == pytest.approx(
        trust_in(none, 0.5, none, none), abs=0.02
    )
