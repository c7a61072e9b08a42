"""Peers of a race: they train what is there, are the same for a seed, and aim at what is best."""

from __future__ import annotations

import builtins
import importlib.util
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
from optuna.trial import create_trial

from benchmarks.race import syne
from benchmarks.race.dyhpo import AS_PUBLISHED
from benchmarks.race.dyhpo import DeepKernel
from benchmarks.race.dyhpo import DyHPO
from benchmarks.race.dyhpo import Rows
from benchmarks.race.freeze_thaw import CurveProcess
from benchmarks.race.freeze_thaw import FreezeThaw
from benchmarks.race.halving import stop
from benchmarks.race.observed import scaled
from optuna_aelle.backtest.pool import Pool
from optuna_aelle.backtest.promotion import InOrder
from optuna_aelle.backtest.promotion import Promotion
from optuna_aelle.backtest.promotion import promote
from optuna_aelle.backtest.race import run_arm
from optuna_aelle.trials.table import RecordedTrials

LENGTH = 9
BEST_RATE = 0.01
HAS_SYNE = all(
    importlib.util.find_spec(name) for name in ("syne_tune", "xgboost", "huggingface_hub")
)
needs_syne = pytest.mark.skipif(not HAS_SYNE, reason="needs syne-tune: optuna-aelle[race]")

Arm = Callable[[Pool, int], None]


def made_table(
    n: int = 30,
    *,
    seed: int = 0,
    prefix: str = "",
    direction: str = "minimize",
    broken: int = 0,
    choices: tuple[Any, ...] = ("adam", "sgd"),
) -> RecordedTrials:
    """Losses that the learning rate alone decides; the first ``broken`` ones are not numbers."""
    rng = np.random.default_rng(seed)
    sign = 1.0 if direction == "minimize" else -1.0
    distributions: dict[str, BaseDistribution] = {
        "learning_rate": FloatDistribution(1e-4, 1.0, log=True),
        "hidden_size": IntDistribution(8, 64, log=True),
        "optimizer": CategoricalDistribution(choices),
    }
    trials = []
    for number in range(n):
        cell = {
            "learning_rate": float(10.0 ** rng.uniform(-4.0, 0.0)),
            "hidden_size": int(rng.integers(8, 65)),
            "optimizer": choices[rng.integers(len(choices))],
        }
        off = math.log10(cell["learning_rate"] / BEST_RATE)
        curve = 1.0 - math.exp(-(off**2)) * (1.0 - np.exp(-np.arange(1, LENGTH + 1) / 3.0))
        curve += 0.002 * rng.standard_normal(LENGTH)
        if number < broken:
            curve[2:] = np.nan
        own: dict[str, Any] = {name: cell[name] for name in cell}
        kinds = dict(distributions)
        if number % 2:
            # Known of every other configuration alone.
            own["n_layers"], kinds["n_layers"] = 1 + number // 2 % 2, IntDistribution(1, 2)
        values = {step: sign * float(v) for step, v in enumerate(curve)}
        last = values[LENGTH - 1]
        trial = create_trial(
            value=last if math.isfinite(last) else sign * 1.0,
            params={prefix + name: value for name, value in own.items()},
            distributions={prefix + name: kinds[name] for name in own},
            intermediate_values=values,
        )
        trial.number = number
        trials.append(trial)
    # Epochs so long that nothing an arm computes counts: runs are the same on every machine.
    seconds = np.full(n, 1e9)
    return RecordedTrials(f"made{seed}", direction, tuple(trials), seconds)  # type: ignore[arg-type]


def past() -> list[RecordedTrials]:
    return [
        made_table(40, seed=101),
        made_table(40, seed=102, direction="maximize"),
        made_table(40, seed=103, prefix="their_"),
    ]


PLAIN: dict[str, Callable[[], Arm]] = {
    "DyHPO": DyHPO,
    "DyHPO, more often": lambda: DyHPO(AS_PUBLISHED._replace(first_steps=20, steps=5, rate=0.01)),
    "freeze-thaw": FreezeThaw,
}
SYNE: dict[str, Callable[[], Arm]] = {
    # A few trees are enough where one hyperparameter decides.
    "CQR, promotion": lambda: syne.cqr_asha(n_estimators=10),
    "CQR, stopping": lambda: syne.cqr_asha(promotes=False, n_estimators=10),
}
TRANSFER: dict[str, Callable[[list[RecordedTrials]], Arm]] = {
    "portfolio": syne.ZeroShot,
    "box": syne.BoundingBox,
    "quantiles": syne.QuantileTransfer,
    "quantiles, draws": lambda tables: syne.QuantileTransfer(tables, draws=True),
    "portfolio, stopping": lambda tables: syne.ZeroShot(tables, "stopping", 2),
}
LEARNING = [*PLAIN, *(pytest.param(name, marks=needs_syne) for name in SYNE)]
KNOWING = [pytest.param(name, marks=needs_syne) for name in TRANSFER]


def made(name: str) -> Arm:
    if name in TRANSFER:
        return TRANSFER[name](past())
    return (PLAIN | SYNE)[name]()


def raced(
    name: str, table: RecordedTrials, *, seed: int = 0, budget: float = 60, arm: Arm | None = None
) -> Pool:
    """The pool after an arm has spent its budget on it, or has trained all that it would."""
    order = np.random.default_rng(seed).permutation(len(table)).tolist()
    pool = Pool(table, order, budget=budget)
    made_arm = arm or made(name)
    failure = run_arm(lambda: made_arm, pool, seed)
    assert failure is None, failure
    return pool


def epochs_until_best(pool: Pool, share: float = 0.05) -> int:
    """Epochs spent when the first of the best configurations starts."""
    off = [abs(math.log10(t.params["learning_rate"] / BEST_RATE)) for t in pool.configurations]
    best = np.argsort(off)[: math.ceil(share * len(off))]
    hits = np.flatnonzero(np.isin(pool.course.positions, best))
    return int(hits[0]) if len(hits) else int(pool.budget)


@pytest.mark.parametrize("name", [*LEARNING, *KNOWING])
def test_it_spends_its_budget_and_is_the_same_for_a_seed(name: str) -> None:
    table = made_table(24)
    first, again = (raced(name, table, budget=25).course for _ in range(2))
    # A pool raises where an arm trains what is not there, or past an end.
    assert len(first.positions) == 25
    np.testing.assert_array_equal(first.positions, again.positions)
    assert name in TRANSFER or first.positions[0] == 0


@pytest.mark.parametrize("name", [*LEARNING, *KNOWING])
def test_it_trains_until_nothing_is_left(name: str) -> None:
    pool = raced(name, made_table(3 if name in PLAIN else 9), budget=1000)
    assert pool.left == []
    n_ended = sum(map(pool.is_over, range(len(pool))))
    # Of nine, three and then one are promoted; who stops stops for good.
    assert n_ended == (3 if name in PLAIN else 1) or ("stopping" in name and n_ended >= 1)


@pytest.mark.parametrize("name", [*LEARNING, *KNOWING])
def test_a_training_that_diverges_hurts_nobody(name: str) -> None:
    pool = raced(name, made_table(20, broken=12), budget=30)
    broken = [i for i in range(len(pool)) if np.isnan(pool.values(i)).any()]
    last = np.flatnonzero(np.isnan(pool.course.values))[0]
    assert not set(pool.course.positions[last:].tolist()) <= set(broken)
    # Nobody goes on with it past the next rung, but syne-tune's stopping with the first one.
    assert name == "CQR, stopping" or all(len(pool.values(i)) <= 4 for i in broken)


@pytest.mark.parametrize("name", [*LEARNING, *KNOWING])
@pytest.mark.parametrize("choices", [(16, 64), (True, "auto", None)])
def test_choices_need_not_be_words(name: str, choices: tuple[Any, ...]) -> None:
    pool = raced(name, made_table(12, choices=choices), budget=25)
    assert len(pool.course.positions) == 25 or pool.left == []


# That under stopping asks the same searcher, but only a dozen times in so few epochs.
@pytest.mark.parametrize("name", LEARNING[:-1])
def test_it_finds_what_one_hyperparameter_decides(name: str) -> None:
    spent, by_chance = [], []
    for seed in range(3):
        direction = "maximize" if seed % 2 else "minimize"
        table = made_table(60, seed=seed, direction=direction)
        spent.append(epochs_until_best(raced(name, table, seed=seed, budget=60)))
        chance = raced("chance", table, seed=seed, budget=60, arm=Promotion(3))
        by_chance.append(epochs_until_best(chance))
    assert np.mean(spent) < 0.75 * np.mean(by_chance), (spent, by_chance)


@pytest.mark.parametrize("name", KNOWING)
def test_it_starts_where_the_past_was_best(name: str) -> None:
    starts = []
    for seed in range(3):
        pool = raced(name, made_table(30, seed=seed), seed=seed, budget=12)
        _, first = np.unique(pool.course.positions, return_index=True)
        order = pool.course.positions[np.sort(first)][:3]
        starts += [pool.configurations[i].params["learning_rate"] for i in order]
    off = np.abs(np.log10(np.array(starts) / BEST_RATE))
    # At random it is 1 on average, and at most 2.
    assert np.mean(off) < (0.6 if "draws" in name else 0.35)


@pytest.mark.parametrize("name", KNOWING)
def test_a_past_with_no_name_in_common_leaves_the_order_of_chance(name: str) -> None:
    arm = TRANSFER[name]([made_table(30, seed=9, prefix="their_")])
    pool = raced(name, made_table(20), budget=30, arm=arm)
    _, first = np.unique(pool.course.positions, return_index=True)
    np.testing.assert_array_equal(pool.course.positions[np.sort(first)], np.arange(len(first)))


class _Told(InOrder):
    """Keeps what it is told."""

    def __init__(self, order: list[int]) -> None:
        super().__init__(order)
        self.heard: list[tuple[int, int]] = []

    def told(self, position: int, n_reports: int, score: float) -> None:
        self.heard.append((position, n_reports))


def test_promotion_is_asha_of_one_worker() -> None:
    table = made_table(30)
    starter = _Told([])
    ours = raced("", table, budget=100, arm=lambda pool, seed: promote(pool, starter, 3))
    reference = raced("", table, budget=100, arm=Promotion(3))
    np.testing.assert_array_equal(ours.course.positions, reference.course.positions)
    assert [position for position, _ in starter.heard] == ours.course.positions.tolist()


def test_stopping_keeps_the_best_of_each_rung_in_the_order_that_is_given() -> None:
    losses = [0.9, 0.5, 0.7, 0.1, 0.6]
    trials = [
        create_trial(
            value=loss,
            params={"x": float(i)},
            distributions={"x": FloatDistribution(0.0, 9.0)},
            intermediate_values=dict.fromkeys(range(4), loss),
        )
        for i, loss in enumerate(losses)
    ]
    pool = Pool(RecordedTrials("made", "minimize", tuple(trials), np.ones(5)), range(5), budget=99)
    stop(pool, InOrder([2, 0, 1]), 2)
    # 2 is the first; 0 is worse; 1 the best of three; then in the order of the pool: 3 is the best
    # of four, 4 the third of five.
    assert [len(pool.values(i)) for i in range(5)] == [1, 4, 4, 4, 1]


def test_scores_are_between_the_median_and_the_best() -> None:
    scores = np.array([1.0, 3.0, 5.0, -1e9, 3.0, np.nan])
    np.testing.assert_allclose(scaled(scores)[:2], [-1.0, 0.0])
    assert scaled(scores)[2] == 1.0
    assert scaled(scores).min() == scaled(scores)[3] == scaled(scores)[5] == -2.0
    assert (scaled(np.array([np.nan])) == 0.0).all()
    assert (scaled(np.array([4.0, 4.0])) == 1.0).all()


def test_curves_are_predicted_as_a_dense_process_would() -> None:
    rng = np.random.default_rng(0)
    process = CurveProcess(rng.standard_normal((5, 2)), LENGTH)
    scores = rng.standard_normal(12)
    asked = np.array([0, 1, 4]), np.array([5, 2, 9])
    for i in range(12):
        process.add(i % 4, i // 4 + 1)
        if i in (3, 7):
            process.predict(scores[: i + 1], *asked)
    step_by_step = process.predict(scores, *asked)
    process._n_factored = 0
    at_once = process.predict(scores, *asked)
    np.testing.assert_allclose(step_by_step, at_once, atol=1e-8)


def test_fitting_raises_the_likelihood_of_smooth_curves() -> None:
    columns = np.linspace(-2.0, 2.0, 9)[:, None]
    process = CurveProcess(columns, LENGTH)
    scores = []
    for position in (0, 2, 4, 6, 8):
        for epoch in (1, 3, 9):
            process.add(position, epoch)
            scores.append(math.sin(columns[position, 0]) * math.log(1 + epoch))
    between, ends = np.array([3, 5]), np.array([9, 9])
    true = np.sin(columns[between, 0]) * math.log(10)
    before = np.abs(process.predict(np.array(scores), between, ends)[0] - true).max()
    process.fit(np.array(scores))
    after, deviations = process.predict(np.array(scores), between, ends)
    assert np.abs(after - true).max() < min(before, 0.3)
    assert (deviations > 0.0).all()


def test_the_deep_kernels_gradients_are_those_of_its_likelihood() -> None:
    torch.manual_seed(0)
    model = DeepKernel(3).double()
    rows = Rows(torch.randn(7, 4).double(), torch.randn(7, LENGTH).double())
    targets = torch.randn(7).double()
    model.backward(rows, targets)
    by_hand = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    features = model.features(rows)
    covariance = model.kernel(features, features)
    covariance = covariance + (model.log_noise.exp() + 1e-4) * torch.eye(7).double()
    normal = torch.distributions.MultivariateNormal(model.mean.expand(7), covariance)
    (-normal.log_prob(targets) / 7).backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(by_hand[name], value.grad, rtol=1e-5, atol=1e-7)
    means, deviations = model.predict(rows, targets, rows)
    noise = model.log_noise.exp().item()
    exact = covariance.detach() - noise * torch.eye(7).double()
    solved = torch.linalg.solve(covariance.detach(), targets - model.mean.detach())
    # The jitter that is not in the noise is in the covariance of what was seen alone.
    expected = model.mean.detach() + (exact - 1e-4 * torch.eye(7).double()) @ solved
    np.testing.assert_allclose(means, expected.numpy(), atol=1e-6)
    assert (deviations >= math.sqrt(noise)).all()


def test_the_deep_kernel_predicts_where_observations_are_alike() -> None:
    torch.manual_seed(0)
    model = DeepKernel(3)
    with torch.no_grad():
        # Length and standard deviation that make float32 round the differences away.
        model.log_length.fill_(4.0)
        model.log_deviation.fill_(4.0)
        model.log_noise.fill_(-20.0)
    rows = Rows(torch.randn(40, 4), torch.randn(40, LENGTH))
    with pytest.raises(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        model.factor(model.features(rows))
    means, deviations = model.predict(rows, torch.randn(40), rows)
    assert np.isfinite(means).all()
    assert (deviations > 0.0).all()


@pytest.mark.parametrize("name", PLAIN)
def test_threads_and_seeds_are_left_as_they_were(name: str) -> None:
    torch.manual_seed(5)
    before = torch.get_num_threads(), torch.random.get_rng_state()
    raced(name, made_table(12), budget=20)
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])


@needs_syne
def test_syne_tune_leaves_numpys_generator_as_it_was() -> None:
    np.random.seed(5)
    before = np.random.get_state()[1]
    raced("CQR, promotion", made_table(12), budget=20)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_without_syne_tune_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "syne_tune":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    for name in ("benchmarks.race.syne_pool", "benchmarks.race.syne_transfer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    for make in (syne.cqr_asha, lambda: syne.ZeroShot([])):
        with pytest.raises(ImportError, match=r"optuna-aelle\[race\]"):
            make()


def test_another_halving_is_refused() -> None:
    with pytest.raises(ValueError, match="promotion or stopping"):
        syne.BoundingBox([], "hyperband")  # type: ignore[arg-type]
