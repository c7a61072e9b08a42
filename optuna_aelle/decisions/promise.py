"""How much does each candidate of a study promise?

With one objective, by what is expected of it beyond the best so far
(`optuna_aelle.decisions.reservoir.index_of`).

With several, each is forecast by itself, and a candidate promises the hypervolume by which it is
expected to enlarge what the Pareto front dominates. Standings y are used in place of values, so
that no metric's scale matters and no single bad loss can distort the volume. The volume is a mean
over directions w, uniform on the positive part of the unit sphere (Zhang & Golovin 2020, Random
hypervolume scalarizations)::

    volume ∝ E_w[ max over points of (minᵢ max(0, yᵢ − zᵢ) / wᵢ)ᵏ ]

for k objectives and a reference point z, and needs no sorting, whatever k is.

The prior speaks of the first objective that changes while networks train: what it knows is how
well networks learn. The others are learned from the hyperparameters of this study's own trials;
one that never changes in training, such as a count of parameters, is known for what has started.
Until a few trials have ended nobody can tell, and the base sampler has its way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from scipy.special import ndtr

from optuna_aelle.decisions.front import standings_of
from optuna_aelle.decisions.reservoir import Reservoir
from optuna_aelle.decisions.reservoir import index_of
from optuna_aelle.decisions.reservoir import reservoir_of
from optuna_aelle.decisions.reservoir import started_trials
from optuna_aelle.prediction.cache import fitted_predictor
from optuna_aelle.prediction.objectives import all_objectives
from optuna_aelle.prediction.objectives import is_feasible
from optuna_aelle.prediction.objectives import known_objectives
from optuna_aelle.trials.attributes import UNTRAINED_STEP

FloatArray = npt.NDArray[np.float64]

# Who is expected below this in any objective adds nothing: five in six of a study are above it.
_REFERENCE = -1.0
# Of two objectives so many directions do; more objectives have more of them.
_N_DIRECTIONS, _N_MORE_DIRECTIONS, _N_NODES = 32, 128, 24
# Nobody is expected further than so many standard deviations above the mean.
_FAR = 4.0
# Lessons before the hyperparameters tell of an objective.
_LEAST_KNOWN = 4
# The standard deviation of a standing that is known.
_EXACT = 0.01


def promise_of(
    study: Study, reservoir: Reservoir, trials: Sequence[FrozenTrial]
) -> tuple[FloatArray, FloatArray] | None:
    """What is expected of the candidates, and what they promise: ``(n,)`` each, higher is better.

    None where nobody can tell yet.

    Args:
        study: With any number of objectives.
        reservoir: Its candidates.
        trials: That have started, as the first objective sees them (`started_trials`).
    """
    m = len(trials)
    if len(study.directions) == 1:
        field = reservoir.field(trials)
        return field.mean[m:], index_of(field, trials)[m:]
    promises = _promises(study, reservoir, trials)
    return None if promises is None else (promises[m:], promises[m:])


def promise_beside(study: Study, number: int) -> tuple[float, float] | None:
    """What a trial in training still promises, and what the best candidate does.

    None where no sampler of this process has left any candidates, or the trial has shown nothing.
    """
    reservoir = reservoir_of(study)
    if reservoir is None:
        return None
    with reservoir.lock:
        trials = started_trials(study)
        own = next((i for i, trial in enumerate(trials) if trial.number == number), None)
        if own is None or not reservoir.candidates:
            return None
        promises = _promises(study, reservoir, trials)
    if promises is None:
        return None
    return float(promises[own]), float(promises[len(trials) :].max())


def _promises(
    study: Study, reservoir: Reservoir, trials: Sequence[FrozenTrial]
) -> FloatArray | None:
    """Expected gains of hypervolume of all networks ``(n,)``, the candidates last."""
    expected = _expected(study, reservoir, trials)
    if expected is None:
        return None
    mean, std = expected
    ended = np.array([t.state == TrialState.COMPLETE and is_feasible(t) for t in trials], bool)
    return hypervolume_improvement(mean, std, mean[: len(trials)][ended])


def _expected(
    study: Study, reservoir: Reservoir, trials: Sequence[FrozenTrial]
) -> tuple[FloatArray, FloatArray] | None:
    """Standings of all networks by objective, ``(n, k)`` each."""
    numbers = {trial.number for trial in trials}
    everyone = [x for x in all_objectives(study) if x.trial.number in numbers]
    known = known_objectives(study, everyone)
    learns = known.index(False) if False in known else -1
    columns = []
    for objective in range(len(known)):
        # The same trials for each: which are asked depends on the objective, and on the moment.
        views = [x.views[objective] for x in everyone]
        if objective != learns:
            found = _by_parameters(study, reservoir, views, objective, known[objective])
            if found is None:
                return None
            columns.append(found)
            continue
        field = reservoir.field(views, objective)
        columns.append((field.mean, field.std))
    means, stds = zip(*columns, strict=True)
    return np.stack(means, axis=1), np.stack(stds, axis=1)


def _by_parameters(
    study: Study, reservoir: Reservoir, views: Sequence[FrozenTrial], objective: int, known: bool
) -> tuple[FloatArray, FloatArray] | None:
    """Standings of all networks by their hyperparameters; None where too few have ended.

    What has ended stands where it ended; if the objective is known, so does what has started.
    """
    predictor = fitted_predictor(study, ("params",), _LEAST_KNOWN, objective=objective)
    if predictor is None:
        return None
    candidates = [candidate.trial for candidate in reservoir.candidates]
    mean, std = predictor.predict_standings([*views, *candidates], UNTRAINED_STEP)
    values = np.full(len(mean), np.nan)
    for i, view in enumerate(views):
        if view.values:
            values[i] = view.values[0]
        elif known and view.last_step is not None:
            values[i] = view.intermediate_values[view.last_step]
    told = np.isfinite(values)
    standings = standings_of(predictor, values[told])
    if standings is not None:
        mean[told], std[told] = standings, _EXACT
    return mean, std


def hypervolume_improvement(mean: FloatArray, std: FloatArray, front: FloatArray) -> FloatArray:
    """Expected gain of dominated hypervolume ``(n,)``, up to a factor that all share.

    In a direction w a point reaches t = minᵢ (yᵢ − zᵢ) / wᵢ, and gains where that is beyond b, the
    most that the front reaches: ∫ k tᵏ⁻¹ P(reach > t) dt from b on, P a product over objectives.

    Args:
        mean: ``(n, k)`` standings.
        std: ``(n, k)`` their standard deviations, one independent of the other.
        front: ``(m, k)`` standings of what has ended; none is fine.
    """
    k = mean.shape[1]
    directions = _directions(k)
    reached = ((front[:, None] - _REFERENCE) / directions).min(axis=2).clip(min=0.0)
    least = reached.max(axis=0, initial=0.0)
    above = mean - _REFERENCE
    most = ((above + _FAR * std)[:, None] / directions).min(axis=2).max(axis=0, initial=0.0)
    nodes, weights = np.polynomial.legendre.leggauss(_N_NODES)
    half = np.maximum(most - least, 0.0)[:, None] / 2.0
    t = least[:, None] + half * (1.0 + nodes)
    chance = np.ones((len(mean), *t.shape))
    for i in range(k):
        chance *= ndtr(
            (above[:, i, None, None] - directions[:, i, None] * t) / std[:, i, None, None]
        )
    gains = (chance * (k * t ** (k - 1) * half * weights)).sum(axis=(1, 2))
    return np.asarray(gains / len(directions))


def _directions(k: int) -> FloatArray:
    """``(W, k)``, the same for each question; of two objectives evenly spaced."""
    if k == 2:
        angles = (np.arange(_N_DIRECTIONS) + 0.5) / _N_DIRECTIONS * np.pi / 2.0
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    directions = np.abs(np.random.default_rng(k).standard_normal((_N_MORE_DIRECTIONS, k)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.asarray(np.maximum(directions, 1e-6))
