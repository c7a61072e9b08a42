"""One forecast for all that a study may train: untried, running, stopped and finished.

The prior says where each network stands before training (m₀, s₀) and after what it has reported
(m_t, s_t). A Gaussian process over what is left, standing less m₀, carries what the started ones
have shown over to the untried ones:

    f = standing − m₀ ~ N(0, gᵢ·gⱼ + sᵢ sⱼ [c + b m₀ᵢ m₀ⱼ + p k(xᵢ, xⱼ)] + own part)

with the ways g in which studies differ (`optuna_aelle.prediction.network`) and, of the spread s
that these leave, a constant (c), the slope of the prior (b: a prior that is wrong here loses its
weight with the evidence), and the parameters x (p). What a started trial has shown is its curve's
own word: the observation l of variance v that turns m₀ into m_t.

*Trust.* Where curves contradict what the prior said of untrained networks, its word counts for
less, before and during training (`optuna_aelle.prediction.trust`).

*Selection.* Started trials were chosen, so that one in their middle is better than one in the
middle of the space. Ranks among them are therefore mapped to a ± b of what the prior expected of
them; without this a search takes good networks for poor ones and never ends one.

Notation: n networks, m of them started.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from scipy.linalg import cho_factor
from scipy.linalg import cho_solve
from scipy.linalg import solve_triangular

from optuna_aelle._threads import one_thread
from optuna_aelle.prediction.encoding import ParameterEncoder
from optuna_aelle.prediction.network import Outlook
from optuna_aelle.prediction.prior import Prior
from optuna_aelle.prediction.prior import by_curve_alone
from optuna_aelle.prediction.reading import Reader
from optuna_aelle.prediction.traits import Population
from optuna_aelle.prediction.traits import Traits
from optuna_aelle.prediction.trust import trust_in
from optuna_aelle.trials.attributes import UNTRAINED_STEP

FloatArray = npt.NDArray[np.float64]

# Of the variance that the prior leaves: what all share, its slope, the parameters' part.
# Chosen by hand; in a simulation half and three times the constant changed little.
_CONSTANT, _SLOPE, _PARAMETERS = 0.1, 0.3, 0.5
# Of the parameters' part, what is linear; the rest is a Gaussian kernel of unit length.
_LINEAR = 0.3
# Ranks among the started are not narrowed below this.
_LEAST_SPREAD = 0.3
_LEAST_PRECISION = 1e-3
# The most recent started trials carry over; more would make every decision slow.
_MOST_OBSERVED = 400


@dataclass(frozen=True, eq=False)
class Field:
    """Where all networks of a study are expected to end, as standings in its space.

    Attributes:
        mean: ``(n,)``; those that have started first, in the order in which they were given.
        std: ``(n,)``.
    """

    mean: FloatArray
    std: FloatArray


def forecast_field(
    prior: Prior,
    started: Sequence[FrozenTrial],
    untried: Sequence[FrozenTrial],
    reader: Reader,
) -> Field:
    """Ask of all at once.

    Args:
        prior: Of other studies.
        started: Trials with what they have reported so far, whatever has become of them.
        untried: Candidates, with the spectra of their untrained networks where those are known.
        reader: Of the study; kept, it makes the next question cheap.
    """
    if not started and not untried:
        return Field(np.zeros(0), np.zeros(0))
    with one_thread:
        return _forecast_field(prior, started, untried, reader)


def _forecast_field(
    prior: Prior,
    started: Sequence[FrozenTrial],
    untried: Sequence[FrozenTrial],
    reader: Reader,
) -> Field:
    everyone = [*started, *untried]
    untrained = reader.read(everyone, UNTRAINED_STEP)
    outlook = reader.once(
        "outlook", (prior, untrained), lambda: _before_training(prior, everyone, untrained)
    )
    m = len(started)
    if m == 0:
        return Field(outlook.mean, outlook.std)
    so_far = reader.read(started, math.inf)
    finished = [i for i in range(m) if started[i].state == TrialState.COMPLETE]
    length = max((len(so_far.curves[i]) for i in finished), default=0)
    now = reader.once("to the end", (so_far,), lambda: _to_the_end(so_far, finished, length))
    chosen = Population(untrained.relative, now.curves, length or math.nan)
    outlook, trust = _as_far_as_borne_out(outlook, now, chosen)
    population = chosen.seen_as(_selection(outlook.mean[:m], outlook.std[:m]))
    mean_now, std_now = prior.predict_traits(now, population)
    if prior.past is not None:
        mean_now, std_now = prior.past.correct(started, now, mean_now, std_now)
    plain = by_curve_alone(now, population)
    mean_now, std_now = _mixed(trust, (mean_now, std_now), plain)
    x = reader.once("parameters", (untrained,), lambda: ParameterEncoder(everyone).encoded)
    shift, std = _carried_over(x, outlook, mean_now, std_now)
    mean = outlook.mean[m:] + shift
    return Field(np.concatenate([mean_now, mean]), np.concatenate([std_now, std]))


def _before_training(prior: Prior, trials: Sequence[FrozenTrial], untrained: Traits) -> Outlook:
    """What the prior says of networks as they were when nothing was known of the study."""
    outlook = prior.outlook(untrained, Population(untrained.relative, []))
    if prior.past is None:
        return outlook
    return outlook.narrowed(*prior.past.correct(trials, untrained, outlook.mean, outlook.std))


def _to_the_end(traits: Traits, finished: Sequence[int], length: int) -> Traits:
    """The same, where those that finished early stay where they ended."""
    short = {i: length - len(traits.curves[i]) for i in finished if len(traits.curves[i]) < length}
    if not short:
        return traits
    curves = list(traits.curves)
    for i, missing in short.items():
        # `np.pad` takes several times as long, and there are many.
        curves[i] = np.concatenate([curves[i], np.full(missing, curves[i][-1])])
    return replace(traits, curves=tuple(curves))


def _mixed(
    trust: float, word: tuple[FloatArray, FloatArray], plain: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """Mean and spread of a mixture: the prior's word, and what the curves alone say."""
    mean = trust * word[0] + (1.0 - trust) * plain[0]
    variance = trust * (word[1] ** 2 + (word[0] - mean) ** 2)
    variance += (1.0 - trust) * (plain[1] ** 2 + (plain[0] - mean) ** 2)
    return mean, np.sqrt(variance)


def _as_far_as_borne_out(
    outlook: Outlook, now: Traits, population: Population
) -> tuple[Outlook, float]:
    """What the prior says of untrained networks, weighted; and how much to believe it later."""
    m = len(now)
    plain, plain_std = by_curve_alone(now, population)
    reliability = np.sqrt(np.maximum(1.0 - plain_std**2, 0.0))
    told = reliability > 0.0
    ranks = plain[told] / reliability[told]
    left = float((outlook.std[:m] ** 2).mean())
    beta = trust_in(outlook.mean[:m][told], left, ranks, reliability[told])
    return outlook.weighted(beta), max(beta, 0.0)


def _carried_over(
    x: FloatArray, outlook: Outlook, mean_now: FloatArray, std_now: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """How far the untried are expected from what the prior says, and how uncertain they are.

    Args:
        x: ``(n, _)`` the parameters of all.
        outlook: What the prior said of all before training.
        mean_now: ``(m,)`` of the started.
        std_now: ``(m,)`` of the started.
    """
    m = len(mean_now)
    mean, std, own, ways = outlook
    untried = np.arange(m, len(x))
    if not len(untried):
        return np.zeros(0), np.zeros(0)
    observed = np.arange(m)[-_MOST_OBSERVED:]
    precision = np.maximum(1.0 / std_now**2 - 1.0 / std[:m] ** 2, _LEAST_PRECISION)
    word = (mean_now / std_now**2 - mean[:m] / std[:m] ** 2) / precision
    residuals = (word - mean[:m])[observed]
    x = x / math.sqrt(max(x.shape[1], 1))
    seen, left = x[observed], x[untried]

    def kernel(a: FloatArray, i: npt.NDArray[np.intp]) -> FloatArray:
        products = a @ seen.T
        squares = (a**2).sum(axis=1)[:, None] + (seen**2).sum(axis=1) - 2.0 * products
        of_parameters = _LINEAR * products + (1.0 - _LINEAR) * np.exp(-0.5 * squares)
        total = _CONSTANT + _SLOPE * np.outer(mean[i], mean[observed])
        total = total + _PARAMETERS * of_parameters
        return np.asarray(ways[i] @ ways[observed].T + total * own[i, None] * own[observed])

    noise = (1.0 - _PARAMETERS) * own[observed] ** 2 + 1.0 / precision[observed]
    factor = cho_factor(kernel(seen, observed) + np.diag(noise))
    cross = kernel(left, untried)
    shift = cross @ cho_solve(factor, residuals)
    explained = (solve_triangular(factor[0], cross.T, trans=1, lower=False) ** 2).sum(axis=0)
    total = (ways[untried] ** 2).sum(axis=1)
    total += own[untried] ** 2 * (1.0 + _CONSTANT + _SLOPE * mean[untried] ** 2)
    return shift, np.sqrt(np.maximum(total - explained, 0.01))


def _selection(mean: FloatArray, std: FloatArray) -> tuple[float, float]:
    """Where the started stand among all, by what was known when they were chosen."""
    spread = math.sqrt(float(mean.var() + (std**2).mean()))
    return float(mean.mean()), min(max(spread, _LEAST_SPREAD), 1.0)
