"""The regression, the standings and the predictor, against truth that is known."""

from __future__ import annotations

import copy
import math
import pickle
import threading
import tracemalloc
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial
from scipy.stats import norm
from scipy.stats import spearmanr
from sklearn.exceptions import NotFittedError

from optuna_aelle import AeLLERegressor
from optuna_aelle import AeLLEWarning
from optuna_aelle import PerformancePredictor
from optuna_aelle.prediction import evidence
from optuna_aelle.prediction.cache import fitted_predictor
from optuna_aelle.prediction.curves import is_lesson
from optuna_aelle.prediction.curves import standings
from optuna_aelle.prediction.encoding import ParameterEncoder
from optuna_aelle.prediction.evidence import fit_evidence
from optuna_aelle.prediction.kernels import CONSTANT
from optuna_aelle.prediction.kernels import LINEAR
from optuna_aelle.prediction.kernels import PAIRWISE
from optuna_aelle.prediction.predictor import FEATURES
from optuna_aelle.prediction.values import fit_values
from tests.conftest import made_trials


def trial(value: float | None, reported: dict[int, float], **params: Any) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
        value=value,
        intermediate_values=reported,
        params=params,
        distributions={
            name: optuna.distributions.CategoricalDistribution([x])
            if isinstance(x, str)
            else optuna.distributions.FloatDistribution(1e-9, 100.0, log=True)
            for name, x in params.items()
        },
    )


def gram(x: np.ndarray) -> np.ndarray:
    return np.asarray(x @ x.T / x.shape[1])


def test_leave_one_out_is_what_refitting_without_the_row_gives() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(25, 3))
    y = x[:, 0] + 0.3 * rng.normal(size=25)
    y = (y - y.mean()) / y.std()
    fitted = fit_evidence([gram(x)], y)
    mean, std = fitted.leave_one_out()
    covariance = fitted.scales[0] ** 2 * gram(x) + (fitted.noise**2 + 1e-8) * np.eye(25)
    for i in (0, 7, 24):
        rest = np.delete(np.arange(25), i)
        weights = np.linalg.solve(covariance[np.ix_(rest, rest)], covariance[rest, i])
        assert mean[i] == pytest.approx(weights @ y[rest], abs=1e-8)
        assert std[i] ** 2 == pytest.approx(
            covariance[i, i] - weights @ covariance[rest, i], abs=1e-8
        )


def test_evidence_turns_useless_groups_off() -> None:
    rng = np.random.default_rng(1)
    useful, useless = rng.normal(size=(40, 2)), rng.normal(size=(40, 2))
    y = useful @ [1.0, -0.5] + 0.2 * rng.normal(size=40)
    y = (y - y.mean()) / y.std()
    fitted = fit_evidence([gram(useful), gram(useless)], y)
    shares = fitted.share([gram(useful), gram(useless)])
    assert shares[0] > 0.9
    assert shares.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_cover_what_they_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(400, 3))
    y = x @ [0.8, -0.4, 0.0] + 0.5 * rng.normal(size=400)
    y /= y.std()
    seen, new = x[:40], x[40:]
    fitted = fit_evidence([gram(seen)], y[:40])
    mean, std = fitted.predict([new @ seen.T / 3], [(new**2).sum(axis=1) / 3])
    inside = np.abs(mean - y[40:]) < std
    assert 0.55 < inside.mean() < 0.82


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_pruned_trial_stands_where_its_last_value_would_place_it(sign: float) -> None:
    """Six finished trials whose values at step 3 tell their finals, and at step 0 nothing."""
    finals = [0.1, 0.3, 0.5, 0.6, 0.8, 0.9]
    at_start = [0.4, 0.1, 0.3, 0.2, 0.4, 0.1]
    lessons = [
        trial(sign * final, {0: sign * start, 3: sign * (final - 0.05), 9: sign * final})
        for final, start in zip(finals, at_start, strict=True)
    ]
    lessons += [
        trial(None, {0: 0.0, 3: sign * 0.5}),  # between the third and the fourth
        trial(None, {0: 0.0, 3: sign * 0.99}),  # above all
        trial(None, {0: sign * -1.0}),  # below all, but what does step 0 mean here?
    ]
    score, variance = standings(lessons, sign)
    assert list(np.argsort(score)) == [8, 0, 1, 2, 6, 3, 4, 5, 7]
    assert (variance[:6] == 0.0).all()
    assert 0.2 < variance[6] == variance[7] < 0.6
    assert variance[8] > 0.95
    np.testing.assert_allclose(score, -standings(lessons, -sign)[0], atol=1e-12)


def test_what_teaches_and_what_does_not() -> None:
    assert is_lesson(trial(1.0, {}))
    assert is_lesson(trial(None, {0: 1.0}))
    assert not is_lesson(trial(None, {}))
    assert not is_lesson(trial(None, {0: math.nan}))
    assert not is_lesson(optuna.trial.create_trial(state=TrialState.FAIL))
    assert not is_lesson(optuna.trial.create_trial(state=TrialState.RUNNING))


def test_parameters_become_columns() -> None:
    trials = [
        trial(1.0, {}, rate=1e-4, cell="rnn"),
        trial(1.0, {}, rate=1e-2, cell="gru", bias=3.0),
        trial(1.0, {}, rate=1e-3, cell="gru", bias=1.0),
    ]
    for t in trials:
        if "cell" in t.params:
            t.distributions["cell"] = optuna.distributions.CategoricalDistribution(["rnn", "gru"])
    encoder = ParameterEncoder(trials)
    columns = encoder.encode(trials)
    assert columns.shape == (3, 4)
    # bias (missing counts as the mean), two choices of cell, and the logarithm of the rate.
    assert columns[0, 0] == 0.0
    np.testing.assert_allclose(columns[:, 3], np.array([-1.0, 1.0, 0.0]) * math.sqrt(1.5))
    assert np.allclose(columns[:, 1], -columns[:, 2])


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_predictions_rank_unseen_trials(direction: Any) -> None:
    trials = made_trials(90, direction=direction)
    predictor = PerformancePredictor(direction=direction).fit(trials[:45])
    new = [t for t in trials[45:] if t.state == TrialState.COMPLETE]
    actual = np.array([t.value for t in new])
    rank = {}
    for step in (-1, 5):
        mean, std = predictor.predict(new, step)
        assert mean.shape == std.shape == (len(new),)
        assert (std > 0.0).all()
        rank[step] = spearmanr(mean, actual).statistic
    assert rank[-1] > 0.75
    assert rank[5] > 0.85
    assert predictor.skill(-1).model > 0.6
    assert predictor.skill(-1).baseline == 0.0
    assert set(predictor.spoken_features(-1)) == {"params", "spectrum"}


def test_each_group_alone_and_without_data() -> None:
    trials = made_trials(60)
    new = made_trials(30, seed=9)
    finals = [t.value for t in new]
    by_group = {}
    for group in ("params", "spectrum"):
        predictor = PerformancePredictor(features=(group,)).fit(trials)  # type: ignore[arg-type]
        by_group[group] = spearmanr(predictor.predict(new, -1)[0], finals).statistic
    both = PerformancePredictor(features=("params", "spectrum")).fit(trials)
    assert spearmanr(both.predict(new, -1)[0], finals).statistic > max(by_group.values())

    for t in trials:
        t.system_attrs = {}
    without = PerformancePredictor(features=("spectrum",)).fit(trials)
    mean, _ = without.predict(new, -1)
    assert np.ptp(mean) == pytest.approx(0.0, abs=1e-9)
    assert without.spoken_features(-1) == ()


def test_some_trials_without_spectra_are_predicted_by_the_rest() -> None:
    trials = made_trials(60)
    for t in trials[::3]:
        t.system_attrs = {}
    predictor = PerformancePredictor().fit(trials)
    bare = made_trials(20, seed=5)
    for t in bare:
        t.system_attrs = {}
    mean, std = predictor.predict(bare, -1)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()


def test_same_lessons_same_predictions() -> None:
    trials, new = made_trials(40), made_trials(10, seed=3)
    first = PerformancePredictor().fit(trials).predict(new, 2)
    second = PerformancePredictor().fit(trials).predict(new, 2)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_wild_values_do_not_throw_predictions_off() -> None:
    trials = made_trials(60)
    new = made_trials(30, seed=9)
    worst = max((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: t.value)
    worst.values = [1e12]
    trials[1].intermediate_values[1] = math.nan
    mean, _ = PerformancePredictor().fit(trials).predict(new, -1)
    assert spearmanr(mean, [t.value for t in new]).statistic > 0.7


def test_one_wild_start_does_not_spoil_what_pruned_trials_may_come_to() -> None:
    trials = made_trials(40)
    first = next(t for t in trials if t.state == TrialState.COMPLETE)
    trials = [first, *(t for t in trials if t is not first)]
    honest = PerformancePredictor().fit(trials)
    for step in list(first.intermediate_values)[:-1]:
        first.intermediate_values[step] = 1e4
    spoiled = PerformancePredictor().fit(trials)
    queries = made_trials(10, seed=9)
    wrong = np.abs(spoiled.predict(queries, -1)[0] - honest.predict(queries, -1)[0])
    assert wrong.max() < 1.0
    assert abs(float(spoiled.values.value(spoiled.best_standing)) - spoiled.best_value) < 0.5


def test_the_best_lesson_is_never_forgotten() -> None:
    trials = [trial(1.0 + 0.001 * i, {0: 1.0 + 0.001 * i}) for i in range(320)]
    trials[3].values = [0.01]
    predictor = PerformancePredictor().fit(trials)
    assert predictor.best_value == 0.01
    assert len(predictor.lessons) == 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": ()}, "features must be some of"),
        ({"features": ("loss",)}, "features must be some of"),
        ({"direction": "up"}, "direction must be"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerformancePredictor(**options)


def test_too_little_to_learn_from() -> None:
    with pytest.raises(ValueError, match="at least 4 trials .* got 3 among 3"):
        PerformancePredictor().fit(made_trials(3))
    with pytest.raises(ValueError, match="differ in their values"):
        PerformancePredictor().fit([trial(1.0, {0: 1.0}) for _ in range(8)])
    short = PerformancePredictor().fit([trial(None, {0: float(i)}) for i in range(8)])
    with pytest.raises(ValueError, match="went past step 1000, got 0"):
        short.predict([trial(None, {2000: 1.0})], 1000)


def test_threads_that_ask_during_a_fit_wait_for_the_spectrum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trials, new = made_trials(40), made_trials(10, seed=3)
    expected = PerformancePredictor().fit(trials).predict(new, 2)
    fit, fitting, go_on = AeLLERegressor.fit, threading.Event(), threading.Event()

    def slow_fit(self: AeLLERegressor, *args: Any, **kwargs: Any) -> AeLLERegressor:
        fitting.set()
        go_on.wait(0.5)
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(AeLLERegressor, "fit", slow_fit)
    study = optuna.create_study()
    study.add_trials(trials)
    found: list[Any] = []

    def ask() -> None:
        predictor = fitted_predictor(study, FEATURES, 40)
        assert predictor is not None
        found.append(predictor.predict(new, 2))

    first, second = threading.Thread(target=ask), threading.Thread(target=ask)
    first.start()
    assert fitting.wait(60.0)
    second.start()
    first.join()
    second.join()
    for prediction in found:
        np.testing.assert_array_equal(prediction, expected)
    assert len(found) == 2


def test_a_fit_that_fails_leaves_the_spectrum_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(AeLLERegressor, "fit", fail)
    with pytest.warns(AeLLEWarning, match="learned from the spectra of 40 trials.*no memory"):
        predictor = PerformancePredictor().fit(made_trials(40))
    first, second = (predictor.predict(made_trials(5, seed=2), -1) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert predictor.spoken_features(-1) == ("params",)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_and_pickles_predict_the_same(twin: Any) -> None:
    new = made_trials(10, seed=3)
    predictor = PerformancePredictor().fit(made_trials(40))
    expected = predictor.predict(new, 2)
    np.testing.assert_array_equal(twin(predictor).predict(new, 2), expected)
    unused = twin(PerformancePredictor().fit(made_trials(40)))
    np.testing.assert_array_equal(unused.predict(new, 2), expected)


def test_before_a_fit_there_is_a_clear_error() -> None:
    new = made_trials(3)
    for ask in (lambda p: p.predict(new, 2), lambda p: p.forecast(new[0], 2)):
        with pytest.raises(NotFittedError, match=r"Call `fit\(study.trials\)` first"):
            ask(PerformancePredictor())
    predictor = PerformancePredictor()
    fitted = predictor.fit(made_trials(30))
    np.testing.assert_array_equal(predictor.predict(new, 2), fitted.predict(new, 2))
    with pytest.raises(ValueError, match="at least 4 trials"):
        predictor.fit(new)
    with pytest.raises(NotFittedError):
        predictor.predict(new, 2)


def test_copies_of_trials_are_predicted_as_the_trials() -> None:
    lessons = made_trials(40)
    fitted = PerformancePredictor().fit(lessons)
    for step in (-1, 3):
        np.testing.assert_array_equal(
            fitted.predict(copy.deepcopy(lessons), step), fitted.predict(lessons, step)
        )
        np.testing.assert_array_equal(
            PerformancePredictor().fit(copy.deepcopy(lessons)).predict(lessons, step),
            fitted.predict(lessons, step),
        )


def test_a_forecast_says_in_one_record_what_separate_questions_do() -> None:
    fitted = PerformancePredictor().fit(made_trials(60))
    new = made_trials(5, seed=4)[3]
    for step, share in ((-1, 0.2), (5, None)):
        forecast = fitted.forecast(new, step, share=share)
        standing, standing_std = fitted.predict_standings([new], step)
        value, value_std = fitted.predict([new], step)
        assert (forecast.standing, forecast.standing_std) == (standing[0], standing_std[0])
        assert (forecast.value, forecast.value_std) == (value[0], value_std[0])
        bar = fitted.best_standing if share is None else fitted.standing_quantile(share)
        assert forecast.chance == pytest.approx(norm.sf((bar - standing[0]) / standing_std[0]))
        assert forecast.skill == fitted.skill(step)
        assert forecast.spoke == fitted.spoken_features(step)
        low, high = forecast.percentile_interval
        assert 0.0 < low < forecast.percentile < high < 1.0


def test_the_diagonal_of_a_kernel_needs_no_matrix() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 6))
    for kernel in (CONSTANT, LINEAR, PAIRWISE):
        np.testing.assert_allclose(kernel.own(rows), np.diag(kernel.between(rows, rows)))


def test_two_thousand_queries_cost_little_memory() -> None:
    fitted = PerformancePredictor(("params",)).fit(made_trials(60))
    queries = [trial for seed in range(20) for trial in made_trials(100, seed=seed)]
    fitted.predict_standings(queries[:4], -1)
    tracemalloc.start()
    fitted.predict_standings(queries, -1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


def test_a_pruned_trial_without_a_curve_stands_last() -> None:
    lessons = [trial(value, {1: value}) for value in (0.1, 0.5, 0.9)]
    lessons.insert(1, trial(None, {}))
    score, variance = standings(lessons, -1.0)
    assert list(np.argsort(score)) == [1, 3, 2, 0]
    assert variance.tolist() == [0.0, 1.0, 0.0, 0.0]


def test_a_search_for_evidence_that_gets_lost_starts_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 2))
    y = x[:, 0] + 0.1 * rng.normal(size=30)
    y = (y - y.mean()) / y.std()
    expected = fit_evidence([gram(x)], y)
    honest, starts = evidence.minimize, []

    def lost(objective: Any, start: Any, **options: Any) -> Any:
        starts.append(start)
        found = honest(objective, start, **options)
        if len(starts) == 1:
            found.success, found.x, found.fun = False, start, objective(start)[0]
        return found

    monkeypatch.setattr(evidence, "minimize", lost)
    fitted = fit_evidence([gram(x)], y)
    assert len(starts) == 2
    np.testing.assert_allclose(fitted.scales, expected.scales, rtol=1e-3)
    with pytest.raises(FloatingPointError, match="Are features or targets finite"):
        fit_evidence([gram(x) * 1e200], y)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nobody_is_promised_what_no_curve_has_come_near(sign: float) -> None:
    ends = np.linspace(0.5, 0.9, 21)
    lessons = [
        create_trial(state=TrialState.COMPLETE, value=sign * end, intermediate_values={0: 0.1})
        for end in ends
    ]
    standings = norm.ppf((np.arange(21) + 0.5) / 21)
    values = fit_values(lessons, standings, sign)
    assert sign * values.value(standings[-1]) == pytest.approx(0.9, abs=0.02)
    far = sign * values.value(np.array([2.5, 4.0, 50.0]))
    assert (np.diff(far) >= 0.0).all()
    # A quarter of the way from the median to the best.
    assert 0.9 < far[0] < far[-1] <= 0.9 + 0.25 * 0.2 + 0.02
    mean, std = values.distribution(np.array([1.9]), np.array([0.7]))
    assert sign * mean[0] < 0.95
    assert std[0] > 0.0
    assert sign * values.value(-4.0) < 0.4
