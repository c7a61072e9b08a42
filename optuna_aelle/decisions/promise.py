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
well networks learn. An objective that never changes in training, such as a count of parameters, is
known for what has started and learned from the hyperparameters for what has not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.decisions.front import standings_of
from optuna_aelle.decisions.reservoir import Reservoir
from optuna_aelle.decisions.reservoir import index_of
from optuna_aelle.decisions.reservoir import started_trials
from optuna_aelle.prediction.cache import fitted_predictor
from optuna_aelle.prediction.objectives import all_objectives
from optuna_aelle.prediction.objectives import is_feasible
from optuna_aelle.prediction.objectives import known_objectives
from optuna_aelle.prediction.prior import Prior
from optuna_aelle.trials.attributes import UNTRAINED_STEP

FloatArray = npt.NDArray[np.float64]

# Who is expected below this in any objective adds nothing: five in six of a study are above it.
_REFERENCE = -1.0
_N_DIRECTIONS, _N_DRAWS = 64, 64
# Lessons before the hyperparameters tell an objective that is known.
_LEAST_KNOWN = 6
# The standard deviation of a standing that is known.
_EXACT = 0.01
_NO_PRIOR = Prior()


def promise_of(
    study: Study, reservoir: Reservoir, trials: Sequence[FrozenTrial]
) -> tuple[FloatArray, FloatArray]:
    """What is expected of the candidates, and what they promise: ``(n,)`` each, higher is better.

    Args:
        study: With any number of objectives.
        reservoir: Its candidates.
        trials: That have started, as the first objective sees them (`started_trials`).
    """
    m = len(trials)
    if len(study.directions) == 1:
        field = reservoir.field(trials)
        return field.mean[m:], index_of(field, trials)[m:]
    mean, std = _expected(study, reservoir, trials)
    ended = np.array([t.state == TrialState.COMPLETE and is_feasible(t) for t in trials], bool)
    promise = hypervolume_improvement(mean[m:], std[m:], mean[:m][ended])
    return promise, promise


def _expected(
    study: Study, reservoir: Reservoir, trials: Sequence[FrozenTrial]
) -> tuple[FloatArray, FloatArray]:
    """Standings of all networks by objective, ``(n, k)`` each."""
    numbers = {trial.number for trial in trials}
    everyone = [x for x in all_objectives(study) if x.trial.number in numbers]
    known = known_objectives(study, everyone)
    learns = known.index(False) if False in known else -1
    columns = []
    for objective in range(len(known)):
        if known[objective]:
            views = [x.views[objective] for x in everyone]
            found = _by_parameters(study, reservoir, views, objective)
            if found is not None:
                columns.append(found)
                continue
        started = started_trials(study, objective)
        prior = None if objective == learns else _NO_PRIOR
        field = reservoir.field(started, objective, prior)
        columns.append((field.mean, field.std))
    means, stds = zip(*columns, strict=True)
    return np.stack(means, axis=1), np.stack(stds, axis=1)


def _by_parameters(
    study: Study, reservoir: Reservoir, views: Sequence[FrozenTrial], objective: int
) -> tuple[FloatArray, FloatArray] | None:
    """Standings of all networks in an objective that is known; None where too few have ended."""
    predictor = fitted_predictor(study, ("params",), _LEAST_KNOWN, objective=objective)
    if predictor is None:
        return None
    candidates = [candidate.trial for candidate in reservoir.candidates]
    mean, std = predictor.predict_standings([*views, *candidates], UNTRAINED_STEP)
    told = [i for i, view in enumerate(views) if view.last_step is not None]
    values = [views[i].intermediate_values[views[i].last_step or 0] for i in told]
    standings = standings_of(predictor, np.array(values))
    if standings is not None:
        mean[told], std[told] = standings, _EXACT
    return mean, std


def hypervolume_improvement(mean: FloatArray, std: FloatArray, front: FloatArray) -> FloatArray:
    """Expected gain of dominated hypervolume ``(n,)``, up to a factor that all share.

    Args:
        mean: ``(n, k)`` standings.
        std: ``(n, k)`` their standard deviations, one independent of the other.
        front: ``(m, k)`` standings of what has ended; none is fine.
    """
    n, k = mean.shape
    directions, draws = _drawn(k)
    best = _scalarized(front, directions).max(axis=0) if len(front) else np.zeros(len(directions))
    gains = np.zeros(n)
    for draw in draws:
        gains += np.maximum(_scalarized(mean + std * draw, directions) - best, 0.0).sum(axis=1)
    return gains / (len(draws) * len(directions))


def _scalarized(points: FloatArray, directions: FloatArray) -> FloatArray:
    """``(n, W)``: the kᵗʰ power of how far each point reaches in each direction."""
    above = np.maximum(points - _REFERENCE, 0.0)
    reach = (above[:, None, :] / directions).min(axis=2)
    return np.asarray(reach ** points.shape[1])


def _drawn(k: int) -> tuple[FloatArray, FloatArray]:
    """Directions ``(W, k)`` and standard normal draws ``(S, k)``, the same for each question."""
    rng = np.random.default_rng(k)
    directions = np.abs(rng.standard_normal((_N_DIRECTIONS, k)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    half = rng.standard_normal((_N_DRAWS // 2, k))
    # In pairs of opposite sign: the means of the draws are exact.
    return np.maximum(directions, 1e-6), np.concatenate([half, -half])
