"""Candidates that a study may still start, and what is expected of them and of all others.

A sampler draws more configurations than it trains. Those that are not trained are remembered here,
with the spectra of their untrained networks where they have been asked for: what was computed once
is not computed again. Sampler and pruner of a process share the reservoir of a study; it is a
cache, and whatever is not in it is drawn anew.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from scipy.special import log_ndtr

from optuna_aelle.decisions.excerpts import LONG
from optuna_aelle.decisions.excerpts import compared
from optuna_aelle.prediction.objectives import trials_of_objective
from optuna_aelle.prediction.prior import Prior
from optuna_aelle.prediction.process import Field
from optuna_aelle.prediction.process import forecast_field
from optuna_aelle.prediction.reading import Reader
from optuna_aelle.trials.attributes import SPECTRUM_PREFIX
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.trials.objectives import signs_of
from optuna_aelle.trials.storage import every_trial
from optuna_aelle.trials.storage import study_identity

FloatArray = npt.NDArray[np.float64]

# Standard deviations by which what is less known is preferred among what has not started.
EXPLORATION = 0.5
# What more of them say of others would not be worth the time of every decision.
_MOST_STARTED = 200

_STARTED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(eq=False)
class Candidate:
    """A configuration that has not been trained.

    Attributes:
        params: As they were drawn, with those of branches that it may not take.
        trial: As its trial would be, with the spectrum of its untrained network once it is known.
        written: What drawing it would have written on its trial.
        asked: Whether its spectrum has been asked for.
        key: The same for equal configurations.
    """

    params: Mapping[str, Any]
    trial: FrozenTrial
    written: Mapping[str, Any]
    asked: bool = False
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = key_of(self.trial.params)

    def claim(self) -> bool:
        """Whether nobody has asked for its spectrum: of several threads one is told so."""
        with _lock:
            unclaimed, self.asked = not self.asked, True
        return unclaimed


class Reservoir:
    """Of one study in one process.

    Args:
        signs: Of each objective 1 to maximise, −1 to minimise.
        prior: Of other studies.
        knobs: Own names of parameters, each to its common one.

    Attributes:
        prior: As given.
        knobs: As given.
        lock: Whoever changes the candidates holds it.
    """

    def __init__(
        self, signs: Sequence[float], prior: Prior, knobs: Mapping[str, str] | None = None
    ) -> None:
        self.prior = prior
        self.knobs = dict(knobs or {})
        self.lock = threading.RLock()
        self._readers = [Reader(sign, self.knobs) for sign in signs]
        self._candidates: list[Candidate] = []
        self._keys: dict[int, str] = {}
        self._latest: dict[int, tuple[Any, Field]] = {}
        self._space: dict[str, BaseDistribution] = {}

    @property
    def candidates(self) -> Sequence[Candidate]:
        """Those that are left, in the order in which they came."""
        return self._candidates

    def keep_within(self, space: Mapping[str, BaseDistribution]) -> set[str]:
        """Forget what cannot be suggested any more, where the search space has changed.

        Returns:
            The parameters of whose range nothing has been drawn so far.
        """
        new = {name for name, range_ in space.items() if self._space.get(name) != range_}
        new = new if self._space else set()
        if space != self._space:
            outside = [c.trial for c in self._candidates if not _is_within(c.params, space)]
            self._candidates = [c for c in self._candidates if _is_within(c.params, space)]
            self._forget(outside)
            self._space = dict(space)
        return new

    def add(self, candidate: Candidate, n_most: int) -> None:
        """One more; of more than so many the oldest are forgotten."""
        self._candidates.append(candidate)
        while len(self._candidates) > n_most:
            self.take(0)

    def take(self, position: int) -> Candidate:
        """Remove one."""
        candidate = self._candidates.pop(position)
        self._forget([candidate.trial])
        return candidate

    def _forget(self, trials: Sequence[FrozenTrial]) -> None:
        for reader in self._readers:
            reader.forget(trials)

    def keys(self, started: Sequence[FrozenTrial]) -> set[str]:
        """The configurations that have started or are remembered (`key_of`)."""
        keys = {candidate.key for candidate in self._candidates}
        for trial in started:
            key = self._keys.get(trial.number) or key_of(trial.params)
            # One in training may be about to suggest more.
            if trial.state.is_finished():
                self._keys[trial.number] = key
            keys.add(key)
        return keys

    def field(self, started: Sequence[FrozenTrial], objective: int = 0) -> Field:
        """What is expected of trials of the study and, behind them, of the candidates.

        Args:
            started: As an objective sees them.
            objective: Which one, as a position in ``study.directions``.
        """
        # The pruner asks when a trial stops, then whoever resumes one, then the sampler.
        # Candidates are kept in the key: what has gone must not be taken for one in its place.
        shown = [(c, _shown(c.trial)) for c in self._candidates]
        key = ([_shown(t) for t in started], shown)
        known = self._latest.get(objective)
        if known is None or known[0] != key:
            candidates = [c.trial for c in self._candidates]
            reader = self._readers[objective]
            found = forecast_field(self.prior, started, candidates, reader)
            known = self._latest[objective] = key, found
        return known[1]


_reservoirs: WeakKeyDictionary[BaseStorage, dict[int, Reservoir]] = WeakKeyDictionary()
_lock = threading.Lock()


def reservoir_of(study: Study) -> Reservoir | None:
    """That of a study, if a sampler of this process has made one."""
    storage, study_id = study_identity(study)
    with _lock:
        return _reservoirs.get(storage, {}).get(study_id)


def has_candidates(study: Study) -> bool:
    """Whether a sampler of this process remembers what else the study could start."""
    reservoir = reservoir_of(study)
    return reservoir is not None and bool(reservoir.candidates)


def make_reservoir(
    study: Study, prior: Prior, knobs: Mapping[str, str] | None = None
) -> Reservoir:
    """That of a study, made where there is none with this prior and these knobs."""
    storage, study_id = study_identity(study)
    with _lock:
        known = _reservoirs.setdefault(storage, {})
        found = known.get(study_id)
        if found is None or found.prior is not prior or found.knobs != dict(knobs or {}):
            found = known[study_id] = Reservoir(signs_of(study), prior, knobs)
        return found


def started_trials(study: Study) -> list[FrozenTrial]:
    """All that have begun to show something, in order of number; not those that failed.

    With several objectives, as the first one sees them.
    Of a network that went on where it was stopped, the trial in which it goes on. Of many, those
    that were trained furthest, and the latest; of very many fewer (`compared`).
    """
    trials = one_a_network(trials_of_objective(study, 0, _STARTED))
    shown = [t for t in trials if t.intermediate_values or t.values or _told(t)]
    if len(shown) <= _MOST_STARTED:
        return shown
    if len(shown) > LONG and len(study.directions) == 1:
        return compared(shown, signs_of(study))
    if len(shown) > LONG:
        views = {t.number: t for t in shown}
        whole = [t for t in every_trial(study, _STARTED) if t.number in views]
        return [views[t.number] for t in compared(whole, signs_of(study))]
    half = _MOST_STARTED // 2
    furthest = sorted(shown, key=lambda t: (len(t.intermediate_values), t.number))[-half:]
    kept = {t.number for t in (*furthest, *shown[-half:])}
    return [t for t in shown if t.number in kept]


def index_of(field: Field, started: Sequence[FrozenTrial]) -> FloatArray:
    """How much each network promises ``(n,)``, the higher the better.

    The logarithm of the expected improvement on the best that was trained to its end; before
    there is one, what is expected of it and what it may still show.
    """
    ended = [i for i, t in enumerate(started) if t.state == TrialState.COMPLETE]
    if not ended:
        return field.mean + EXPLORATION * field.std
    ahead = (field.mean - float(np.max(field.mean[ended]))) / field.std
    return np.asarray(np.log(field.std) + _log_improvement(ahead))


def _log_improvement(ahead: FloatArray) -> FloatArray:
    """ln E[max(z + ``ahead``, 0)] of a standard normal z, also where it is tiny."""
    x = np.maximum(ahead, -30.0)
    density = -0.5 * x**2 - 0.5 * math.log(2.0 * math.pi)
    # With the Mills ratio Φ(x) / φ(x), what is left is a small difference: bounded from below.
    rest = 1.0 + x * np.exp(log_ndtr(x) - density)
    return np.asarray(density + np.log(np.maximum(rest, 1.0 / (2.0 + x**2) ** 2)))


def key_of(params: Mapping[str, Any]) -> str:
    """The same for equal configurations."""
    return json.dumps(params, sort_keys=True, default=repr)


def _is_within(params: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> bool:
    return params.keys() == space.keys() and all(
        distribution._contains(distribution.to_internal_repr(params[name]))
        for name, distribution in space.items()
    )


def _shown(trial: FrozenTrial) -> tuple[Any, ...]:
    """The same as long as a trial has shown nothing new."""
    return (
        trial.number,
        trial.state == TrialState.COMPLETE,
        len(trial.intermediate_values),
        len(trial.params),
        sum(key.startswith(SPECTRUM_PREFIX) for key in trial.system_attrs),
    )


def _told(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.RUNNING and UNTRAINED_STEP in decode_spectra(trial)
