"""The sampler ranks by the untrained spectrum, and leaves no other trace."""

from __future__ import annotations

import copy
import datetime
import itertools
import math
import pickle
import random
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
from optuna.samplers import RandomSampler
from optuna.samplers import TPESampler
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle import AeLLESampler
from optuna_aelle import AeLLEWarning
from optuna_aelle import Prior
from optuna_aelle import report_spectrum
from optuna_aelle.decisions.branches import widened
from optuna_aelle.decisions.random_states import random_states_kept
from optuna_aelle.decisions.reservoir import Candidate
from optuna_aelle.decisions.reservoir import key_of
from optuna_aelle.decisions.reservoir import make_reservoir
from optuna_aelle.decisions.reservoir import reservoir_of
from optuna_aelle.decisions.spending import Spending
from tests.conftest import synthetic_spectrum


def quality(params: dict[str, Any]) -> float:
    """A ridge in (a, b) that neither parameter shows by itself; 1 is best."""
    return float(np.exp(-8.0 * (params["a"] + params["b"] - 1.0) ** 2))


def spectrum_fn(params: dict[str, Any]) -> np.ndarray:
    seed = int(1e6 * params["a"])
    return synthetic_spectrum(quality(params), np.random.default_rng(seed))


def objective(trial: optuna.Trial) -> float:
    params = {name: trial.suggest_float(name, 0.0, 1.0) for name in "ab"}
    report_spectrum(trial, spectrum_fn(params), -1)
    return 1.0 - quality(params)


def run(sampler: Any, n: int = 50, storage: Any = None) -> optuna.Study:
    study = optuna.create_study(sampler=sampler, storage=storage)
    study.optimize(objective, n_trials=n)
    return study


@pytest.mark.parametrize("base", [RandomSampler, TPESampler])
def test_ranked_candidates_are_better_than_the_base_samplers(base: Any) -> None:
    options = {} if base is RandomSampler else {"multivariate": True, "constant_liar": False}

    def late(ranked: bool, seed: int) -> float:
        sampler = base(seed=seed, **options)
        if ranked:
            sampler = AeLLESampler(spectrum_fn, sampler, n_candidates=32, spectrum_share=1.0)
        return float(np.mean([t.value for t in run(sampler).trials[20:]]))

    plain, ranked = (np.mean([late(kind, seed) for seed in range(3)]) for kind in (False, True))
    # TPE itself finds better ones in time, and no name says anything to the prior.
    share = 0.6 if base is RandomSampler else 0.95
    assert ranked < share * plain + 0.005


def test_the_default_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AeLLESampler(spectrum_fn)


def test_the_first_trial_is_chosen_only_where_the_space_is_known() -> None:
    plain = run(RandomSampler(seed=3), n=1)
    unknown = run(AeLLESampler(spectrum_fn, RandomSampler(seed=3)), n=1)
    assert unknown.trials[0].params == plain.trials[0].params
    space: dict[str, BaseDistribution] = {"lr": FloatDistribution(1e-5, 1.0, log=True)}
    firsts = []
    for seed in range(5):
        study = optuna.create_study(sampler=AeLLESampler(space=space, seed=seed))
        study.optimize(by_rate, n_trials=1)
        firsts.append(study.trials[0].value)
    # Of five decades the prior knows the good one from other tasks; chance is 1.45.
    assert np.mean(firsts) < 0.9


def test_what_was_not_started_is_remembered_with_its_spectrum() -> None:
    asked: list[str] = []

    def counted(params: dict[str, Any]) -> np.ndarray:
        asked.append(str(sorted(params.items())))
        return spectrum_fn(params)

    study = run(AeLLESampler(counted, RandomSampler(seed=0), spectrum_share=1.0), n=25)
    assert len(asked) == len(set(asked)) > 25
    reservoir = reservoir_of(study)
    assert reservoir is not None
    started = {str(sorted(t.params.items())) for t in study.trials}
    left = {str(sorted(c.params.items())) for c in reservoir.candidates}
    assert not started & left
    # Some were asked for before, and started later.
    assert len(started & set(asked)) > 5


def test_enqueued_trials_are_left_as_they_are() -> None:
    study = optuna.create_study(sampler=AeLLESampler(spectrum_fn, seed=0))
    study.optimize(objective, n_trials=3)
    study.enqueue_trial({"a": 0.125, "b": 0.25})
    study.optimize(objective, n_trials=1)
    assert study.trials[-1].params == {"a": 0.125, "b": 0.25}


def test_a_space_that_changes_forgets_what_does_not_fit() -> None:
    study = optuna.create_study(sampler=AeLLESampler(None, RandomSampler(seed=0)))
    study.optimize(lambda t: t.suggest_float("a", 0, 1), n_trials=5)
    study.optimize(lambda t: t.suggest_float("a", 2, 3), n_trials=5)
    assert all(2 <= t.params["a"] <= 3 for t in study.trials[5:])
    study.optimize(lambda t: t.suggest_float("a", 2, 3) + t.suggest_int("b", 0, 9), n_trials=5)
    assert all({"a", "b"} == t.params.keys() for t in study.trials[10:])


def test_a_small_space_is_not_searched_twice_while_something_is_left() -> None:
    study = optuna.create_study(sampler=AeLLESampler(None, RandomSampler(seed=0)))
    study.optimize(lambda t: float(t.suggest_int("a", 0, 19)), n_trials=18)
    assert len({t.params["a"] for t in study.trials}) == 18


def by_rate(trial: optuna.Trial) -> float:
    return abs(float(np.log10(trial.suggest_float("lr", 1e-5, 1.0, log=True))) + 1.5)


def test_parameters_alone_are_enough() -> None:
    study = optuna.create_study(sampler=AeLLESampler(None, RandomSampler(seed=1)))
    study.optimize(by_rate, n_trials=12)
    assert np.median([t.value for t in study.trials[6:]]) < 0.7


def test_storage_looks_as_if_the_chosen_draw_had_been_the_only_one(tmp_path: Any) -> None:
    """Constant liar writes what it draws: only the chosen draw may be seen."""
    base = TPESampler(multivariate=True, constant_liar=True, seed=0)
    sampler = AeLLESampler(spectrum_fn, base, n_candidates=5)
    study = run(sampler, 30, storage=f"sqlite:///{tmp_path / 's.db'}")
    n_written = 0
    for trial in study.trials:
        written = [value for key, value in trial.system_attrs.items() if "relative_params" in key]
        # Of a candidate that was drawn before TPE began, there is none.
        assert len(written) <= 1
        n_written += len(written)
        for text in written:
            assert all(f'"{name}": {value}' in text for name, value in trial.params.items())
    assert n_written > 5
    assert {k for t in study.trials for k in t.user_attrs} == {"aelle:lambda_1"}


def test_a_failing_spectrum_function_costs_one_warning() -> None:
    def failing(params: dict[str, Any]) -> Any:
        raise RuntimeError("no such cell")

    with pytest.warns(AeLLEWarning, match="has no spectrum.*no such cell") as caught:
        study = run(AeLLESampler(failing, seed=0))
    assert len([w for w in caught if issubclass(w.category, AeLLEWarning)]) == 1
    assert all(t.state == TrialState.COMPLETE for t in study.trials)


def test_candidates_without_a_spectrum() -> None:
    none = run(AeLLESampler(lambda params: None, seed=0), 25)
    assert len(none.trials) == 25
    some = run(AeLLESampler(lambda p: spectrum_fn(p) if p["a"] > 0.5 else None, seed=0), 25)
    assert len(some.trials) == 25


def test_conditional_spaces_and_parallel_trials() -> None:
    def conditional(trial: optuna.Trial) -> float:
        cell = trial.suggest_categorical("cell", ["rnn", "gru"])
        x = trial.suggest_float("x", 0.0, 1.0)
        bias = trial.suggest_float("bias", -1.0, 1.0) if cell == "gru" else 0.0
        report_spectrum(trial, -np.arange(1.0, 9.0) * (0.1 + x), -1)
        return x + abs(bias)

    def of_params(params: dict[str, Any]) -> Any:
        return -np.arange(1.0, 9.0) * (0.1 + params["x"])

    study = optuna.create_study(sampler=AeLLESampler(of_params, seed=0))
    study.optimize(conditional, n_trials=60, n_jobs=4)
    assert all(t.state == TrialState.COMPLETE for t in study.trials)
    # Configurations at random end at 0.75 on average. Threads share the work in any order: the
    # same seed gives other trials each time.
    assert np.mean([t.value for t in study.trials[30:]]) < 0.5


def test_a_candidate_of_a_wider_space_is_taken_as_far_as_it_goes() -> None:
    """While spectra are computed, another thread draws for trials with one parameter more."""

    def narrow(trial: optuna.Trial) -> float:
        # Spectra may take a share of this.
        time.sleep(0.005)
        return trial.suggest_float("x", 0.0, 1.0)

    def wide(trial: optuna.Trial) -> float:
        return narrow(trial) + trial.suggest_float("bias", -1.0, 1.0)

    others: list[Callable[[], None]] = []

    def of_params(params: dict[str, Any]) -> Any:
        if others:
            others.pop()()
        return -np.arange(1.0, 9.0) * (0.1 + params["x"])

    sampler = AeLLESampler(of_params, spectrum_share=1.0, seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(narrow, n_trials=15)
    trial = study.ask()
    others.append(lambda: study.optimize(wide, n_trials=3))
    assert math.isfinite(wide(trial))
    assert not others
    assert len(study.trials) == 19


def test_overhead_is_counted() -> None:
    sampler = AeLLESampler(spectrum_fn, seed=0)
    run(sampler, 30)
    assert 0.0 < sampler.overhead_seconds < 30.0


def test_what_is_spent_survives_copies() -> None:
    sampler = AeLLESampler(spectrum_fn, seed=0)
    run(sampler, 8)
    for other in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        trained, spent = sampler._spending.seconds()
        other._spending.note_spectrum(1.0)
        assert other._spending.seconds() == (trained, spent + 1.0)
        assert other._spending.n_spectra == sampler._spending.n_spectra + 1 > 1


def test_without_spectra_no_trial_is_remembered() -> None:
    sampler = AeLLESampler(seed=0)
    run(sampler, 8)
    assert not sampler._spending._own


def test_threads_count_all_that_they_spend() -> None:
    spending = Spending()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: spending.note_spectrum(0.5), range(20_000)))
    finally:
        sys.setswitchinterval(before)
    assert spending.n_spectra == 20_000
    assert spending.seconds() == (0.0, 10_000.0)


def test_of_several_threads_one_asks_for_a_spectrum() -> None:
    candidate = Candidate({}, create_trial(value=0.0), {})
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: candidate.claim(), range(100))) == 1
    assert candidate.asked


def test_all_candidates_that_were_asked_for_are_compared() -> None:
    space = dict.fromkeys("ab", FloatDistribution(0.0, 1.0))
    sampler = AeLLESampler(None, RandomSampler(0), space=space, n_candidates=300)
    study = run(sampler, 1)
    reservoir = reservoir_of(study)
    assert reservoir is not None
    assert len(reservoir.candidates) == 299


def test_a_trial_in_training_may_still_suggest_more() -> None:
    study = optuna.create_study()
    reservoir = make_reservoir(study, Prior.pretrained())
    trial = study.ask()
    for name in "ab":
        trial.suggest_float(name, 0.0, 1.0)
        assert reservoir.keys(study.trials) == {key_of(trial.params)}


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (["spectrum"], {}, TypeError, "spectrum_fn must be a function"),
        ([spectrum_fn], {"n_candidates": 0}, ValueError, "n_candidates must be at least 1"),
        ([spectrum_fn], {"spectrum_share": -1}, ValueError, "spectrum_share must be in"),
        ([], {"space": {"a": (0.0, 1.0)}}, TypeError, r"for 'a' got \(0.0, 1.0\)"),
        ([spectrum_fn], {"prior": 3}, TypeError, "prior must be 'pretrained'.*got 3"),
        ([spectrum_fn], {"knobs": {"a": "b"}}, ValueError, "knobs to map 'a' to one of"),
    ],
)
def test_bad_settings(arguments: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        AeLLESampler(*arguments, **options)


def test_ranking_works_under_hyperband() -> None:
    """Hyperband hands samplers a study of its own kind, which cannot be copied."""
    n_spectra = 0

    def counted(params: dict[str, Any]) -> np.ndarray:
        nonlocal n_spectra
        n_spectra += 1
        return spectrum_fn(params)

    def train(trial: optuna.Trial) -> float:
        params = {name: trial.suggest_float(name, 0.0, 1.0) for name in "ab"}
        report_spectrum(trial, spectrum_fn(params), -1)
        for step in range(9):
            trial.report(1.0 - quality(params) + 1.0 / (step + 1), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 1.0 - quality(params)

    study = optuna.create_study(
        study_name="hyperband",
        sampler=AeLLESampler(counted, seed=0),
        pruner=optuna.pruners.HyperbandPruner(1, 9, 3),
    )
    study.optimize(train, n_trials=40)
    assert n_spectra > 0
    assert len(study.trials) == 40


@pytest.mark.parametrize("good_draws", [0, 1])
def test_a_base_sampler_that_cannot_be_ranked_draws_alone(good_draws: int) -> None:
    """Because it wants the study itself, or draws once a trial only."""

    class Picky(RandomSampler):
        drawn = (-1, 0)

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return dict.fromkeys("ab", optuna.distributions.FloatDistribution(0.0, 1.0))

        def sample_relative(self, study: Any, trial: Any, space: Any) -> Any:
            watched = not isinstance(study, optuna.Study)
            if watched:
                n = self.drawn[1] if self.drawn[0] == trial.number else 0
                if n >= good_draws:
                    raise RuntimeError("one draw a trial")
                self.drawn = (trial.number, n + 1)
            rng = np.random.default_rng(trial.number)
            return {name: float(rng.uniform()) for name in space}

    with pytest.warns(AeLLEWarning, match="cannot be ranked .*one draw.* Picky draws") as caught:
        study = run(AeLLESampler(spectrum_fn, Picky()), 30)
    assert len([w for w in caught if issubclass(w.category, AeLLEWarning)]) == 1
    for trial in study.trials:
        rng = np.random.default_rng(trial.number)
        assert trial.params == {"a": rng.uniform(), "b": rng.uniform()}


def test_a_storage_that_fails_while_ranking_costs_one_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hiccup(*_: Any) -> Any:
        raise optuna.exceptions.StorageInternalError("database is locked")

    monkeypatch.setattr("optuna_aelle.decisions.sampler.searched_space", hiccup)
    with pytest.warns(AeLLEWarning, match="locked.*RandomSampler draws alone") as caught:
        study = run(AeLLESampler(spectrum_fn, RandomSampler(seed=0)), 30)
    assert len([w for w in caught if issubclass(w.category, AeLLEWarning)]) == 1
    assert len(study.trials) == 30

    liar = TPESampler(multivariate=True, constant_liar=True, seed=0)
    study = optuna.create_study(sampler=AeLLESampler(spectrum_fn, liar))
    study.optimize(objective, n_trials=15)
    monkeypatch.setattr(study._storage, "set_trial_system_attr", hiccup)
    study.optimize(objective, n_trials=5)
    assert len(study.trials) == 20


def test_candidates_are_judged_by_the_parameters_that_their_trial_will_have() -> None:
    """Grouped TPE fills every branch; what a vanilla trial will not have must not count."""

    def gated(trial: optuna.Trial) -> float:
        cell = trial.suggest_categorical("cell", ["vanilla", "gru", "lstm"])
        x = trial.suggest_float("x", 0.0, 1.0)
        n_layers = trial.suggest_int("n_layers", 1, 3)
        for layer in range(n_layers):
            trial.suggest_float(f"dropout_{layer}", 0.0, 0.5)
        if cell != "vanilla":
            x += abs(trial.suggest_float("bias", -2.0, 4.0))
        report_spectrum(trial, -np.arange(1.0, 9.0) * (0.1 + x), -1)
        return x

    def of_params(params: dict[str, Any]) -> Any:
        return -np.arange(1.0, 9.0) * (0.1 + params["x"])

    study = optuna.create_study(sampler=AeLLESampler(of_params, seed=0))
    # Of a branch that no trial has taken, nobody can know.
    for cell in ("vanilla", "gru", "lstm"):
        study.enqueue_trial({"cell": cell})
    study.optimize(gated, n_trials=60)
    reservoir = reservoir_of(study)
    assert reservoir is not None
    # The latest were judged when all branches had been seen.
    judged = [candidate.trial.params for candidate in reservoir.candidates[-40:]]
    # What no trial has had yet, nobody can know of.
    seen = {name for trial in study.trials for name in trial.params}
    right = 0
    for params in judged:
        layers = {name for name in params if name.startswith("dropout_")}
        right += ("bias" in params) == (params["cell"] != "vanilla") and layers == {
            f"dropout_{i}" for i in range(params["n_layers"])
        } & seen
    assert right > 0.8 * len(judged)


def test_a_spectrum_function_that_returns_none_is_told_once() -> None:
    with pytest.warns(AeLLEWarning, match="spectrum_fn returned None for all") as caught:
        run(AeLLESampler(lambda params: None, seed=0), 40)
    assert len([w for w in caught if issubclass(w.category, AeLLEWarning)]) == 1


def test_building_candidates_leaves_the_random_states_alone() -> None:
    def states() -> list[Any]:
        return [
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
        ]

    seen: list[bool] = []

    def drawing(params: dict[str, Any]) -> Any:
        random.random()
        np.random.rand(3)
        return spectrum_fn(params) - 1e-6 * float(torch.rand(()))

    class Watched(AeLLESampler):
        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            before = states()
            params = super().sample_relative(study, trial, search_space)
            seen.append(states() == before)
            return params

    run(Watched(drawing, TPESampler(multivariate=True, constant_liar=False, seed=0)), 30)
    assert seen
    assert all(seen)


def test_of_several_devices_the_states_are_kept_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[int]] = []

    @contextmanager
    def forked(devices: Any) -> Any:
        asked.append(list(devices))
        yield

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    # Asked for all of them without saying so, it warns the caller.
    monkeypatch.setattr(torch.random, "fork_rng", forked)
    with random_states_kept():
        pass
    assert asked == [[0, 1]]


def test_a_candidate_that_fails_does_not_spoil_the_ranking_of_the_others() -> None:
    def sometimes(params: dict[str, Any]) -> Any:
        if params["a"] < 0.25:
            raise FloatingPointError("the state overflowed")
        return spectrum_fn(params)

    base = RandomSampler(seed=0)
    with pytest.warns(AeLLEWarning, match="has no spectrum.*overflowed"):
        study = run(AeLLESampler(sometimes, base, spectrum_share=1.0))
    plain = run(RandomSampler(seed=0))

    def late(of: optuna.Study) -> float:
        return float(np.mean([t.value for t in of.trials[20:]]))

    assert late(study) < 0.6 * late(plain)


def test_a_wrong_prior_is_found_out() -> None:
    """Some are started that nobody has chosen, and their curves tell."""

    def by_rate_alone(trial: optuna.Trial) -> float:
        # To the prior this is about the worst that a learning rate can be.
        rate = trial.suggest_float("lr", 1e-5, 1.0, log=True)
        trial.report(rate, 1)
        return rate

    shares = []
    for seed in range(4):
        study = optuna.create_study(sampler=AeLLESampler(None, RandomSampler(seed=seed)))
        study.optimize(by_rate_alone, n_trials=24)
        rates = np.array([t.params["lr"] for t in study.trials])
        shares.append((rates[4:14] < 1e-4).mean())
        assert study.best_value < 3e-5
    # By chance a fifth.
    assert np.mean(shares) > 0.35


@pytest.mark.slow
def test_a_decision_does_not_take_longer_in_a_long_study() -> None:
    def by_rate(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("lr", 1e-5, 1.0, log=True)
        trial.suggest_int("hidden_size", 8, 128, log=True)
        for step in range(3):
            trial.report(abs(np.log10(rate) + 2.5) + 1.0 / (step + 1), step)
        return abs(float(np.log10(rate)) + 2.5)

    medians = []
    for n in (100, 1000, 3000):
        study = optuna.create_study(sampler=RandomSampler(seed=0))
        study.optimize(by_rate, n_trials=n)
        # The base sampler's time is its own.
        study.sampler = AeLLESampler(None, RandomSampler(seed=1))
        study.optimize(by_rate, n_trials=2)
        seconds = []
        for _ in range(9):
            begun = time.process_time()
            trial = study.ask()
            trial.suggest_float("lr", 1e-5, 1.0, log=True)
            seconds.append(time.process_time() - begun)
            study.tell(trial, by_rate(trial))
        medians.append(float(np.median(seconds)))
    assert medians[1] < 0.06
    assert medians[2] < 3.0 * medians[0] + 0.05


def test_own_names_stay_known_in_a_study_that_is_loaded_anew(tmp_path: Any) -> None:
    """Whoever resumes trials may ask for a forecast before the sampler does."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=url, study_name="own")
    knobs = {"my_lr": "learning_rate"}

    def objective(trial: optuna.Trial) -> float:
        return abs(float(np.log10(trial.suggest_float("my_lr", 1e-5, 1.0, log=True))) + 3.0)

    study.optimize(objective, n_trials=4)
    sampler = AeLLESampler(knobs=knobs, seed=0)
    again = optuna.load_study(storage=url, study_name="own", sampler=sampler)
    make_reservoir(again, sampler.prior)
    again.optimize(objective, n_trials=2)
    reservoir = reservoir_of(again)
    assert reservoir is not None
    assert reservoir.knobs == knobs


def test_all_branches_of_a_given_space_are_drawn_from_the_first_trial_on() -> None:
    space: dict[str, BaseDistribution] = {
        "cell": CategoricalDistribution(["vanilla", "gru"]),
        "a": FloatDistribution(0.0, 1.0),
        "bias": FloatDistribution(-2.0, 4.0),
        "depth": IntDistribution(1, 1),
        "decay": FloatDistribution(0.1, 0.1),
    }
    unlike: list[set[str]] = []

    def of_params(params: dict[str, Any]) -> np.ndarray:
        if params.keys() != space.keys():
            unlike.append(set(params))
        return -np.arange(1.0, 9.0) * (0.1 + params["a"] + abs(params["bias"]))

    def gated(trial: optuna.Trial) -> float:
        trial.suggest_int("depth", 1, 1)
        trial.suggest_float("decay", 0.1, 0.1)
        cell = trial.suggest_categorical("cell", ["vanilla", "gru"])
        x = trial.suggest_float("a", 0.0, 1.0)
        return x + abs(trial.suggest_float("bias", -2.0, 4.0)) if cell == "gru" else x

    sampler = AeLLESampler(of_params, space=space, spectrum_share=1.0, seed=0)
    study = optuna.create_study(sampler=sampler)
    remembered: list[set[int]] = []

    def remember(study: optuna.Study, trial: Any) -> None:
        reservoir = reservoir_of(study)
        remembered.append(set() if reservoir is None else set(map(id, reservoir.candidates)))

    study.enqueue_trial({"cell": "vanilla"})
    study.enqueue_trial({"cell": "vanilla"})
    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        study.optimize(gated, n_trials=16, callbacks=[remember])
    assert not unlike
    assert {t.params["cell"] for t in study.trials} == {"vanilla", "gru"}
    # A branch that is taken for the first time costs no candidate.
    assert all(len(b - a) <= 4 for a, b in itertools.pairwise(remembered[2:]))
    assert all(len(a - b) <= 2 for a, b in itertools.pairwise(remembered[2:]))


def test_processes_may_together_spend_no_more_on_spectra() -> None:
    study = optuna.create_study(study_name="shared")
    when = datetime.datetime(2020, 1, 1)
    for i in range(20):
        trial = create_trial(
            value=i / 20,
            params={"a": i / 20, "b": 0.5},
            distributions=dict.fromkeys("ab", FloatDistribution(0.0, 1.0)),
        )
        trial.datetime_start, trial.datetime_complete = when, when + datetime.timedelta(hours=1)
        study.add_trial(trial)
    asked = 0

    def counted(params: dict[str, Any]) -> np.ndarray:
        nonlocal asked
        asked += 1
        time.sleep(0.005)
        return spectrum_fn(params)

    # Of the hours that others have trained, this process has no share: only the first few.
    study.sampler = AeLLESampler(counted, seed=0)
    study.optimize(objective, n_trials=3)
    assert asked <= 12


def test_a_range_that_was_widened_is_searched() -> None:
    """Ranges may be changed in a study that is resumed."""
    sizes: list[int] = []

    def larger_is_better(trial: optuna.Trial, largest: int) -> float:
        sizes.append(trial.suggest_int("size", 16, largest, log=True))
        return -float(np.log(sizes[-1])) + trial.suggest_float("x", 0.0, 0.1)

    study = optuna.create_study(sampler=AeLLESampler(seed=0))
    study.optimize(lambda trial: larger_is_better(trial, 64), n_trials=8)
    study.optimize(lambda trial: larger_is_better(trial, 256), n_trials=20)
    assert max(sizes[8:]) > 200
    assert sum(size > 64 for size in sizes[8:]) >= 10


@pytest.mark.parametrize("seed", range(4))
def test_a_range_that_depends_on_the_branch_is_searched_as_far_as_it_goes(seed: int) -> None:
    sizes: list[int] = []

    def gated(trial: optuna.Trial) -> float:
        cell = trial.suggest_categorical("cell", ["lstm", "gru"])
        size = trial.suggest_int("size", 16, 32 if cell == "lstm" else 128)
        sizes.append(size)
        return 1.0 / size

    study = optuna.create_study(sampler=AeLLESampler(seed=seed))
    study.optimize(gated, n_trials=20)
    assert sum(size > 32 for size in sizes) >= 6
    assert max(sizes) > 100


def test_ranges_are_widened_where_they_are_of_one_kind() -> None:
    def of(**distributions: BaseDistribution) -> Any:
        middle = {name: d.to_external_repr(1.0) for name, d in distributions.items()}
        return create_trial(value=0.0, params=middle, distributions=distributions)

    space = {
        "a": FloatDistribution(0.5, 2.0, log=True),
        "b": IntDistribution(1, 9, step=2),
        "c": FloatDistribution(0.0, 1.0),
        "d": CategoricalDistribution(["x", "y"]),
    }
    other = of(
        a=FloatDistribution(0.1, 1.0, log=True),
        b=IntDistribution(1, 15, step=2),
        c=IntDistribution(0, 5),
        d=CategoricalDistribution(["x", "y"]),
    )
    before = dict(space)
    wide = widened(space, [other, of(b=IntDistribution(0, 20, step=1)), of(e=space["c"])])
    assert wide["a"] == FloatDistribution(0.1, 2.0, log=True)
    assert wide["b"] == IntDistribution(1, 15, step=2)
    assert {name: wide[name] for name in "cd"} == {name: space[name] for name in "cd"}
    assert wide.keys() == space.keys()
    assert space == before
