"""Ours with a part taken away, or with a prior that is wrong: what is each part worth?"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
from optuna.pruners import BasePruner
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import BaseSampler

from benchmarks.race.priors import prior_without
from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLESampler
from optuna_aelle.backtest.race import ArmFactory
from optuna_aelle.backtest.searches import Callback
from optuna_aelle.decisions.resumption import resume_promising
from optuna_aelle.prediction.network import Outlook
from optuna_aelle.prediction.network import StandingNetwork
from optuna_aelle.prediction.prior import Prior
from optuna_aelle.prediction.traits import COLUMNS

Search = tuple[BaseSampler, BasePruner] | tuple[BaseSampler, BasePruner, Callback]
FloatArray = npt.NDArray[np.float64]


class Reversed(StandingNetwork):
    """Says the opposite of what it has learned, at every step."""

    def outlook(self, columns: FloatArray) -> Outlook:
        outlook = super().outlook(columns)
        return outlook._replace(mean=-outlook.mean)


class Nameless(StandingNetwork):
    """Knows no hyperparameter's name."""

    def outlook(self, columns: FloatArray) -> Outlook:
        hidden = columns.copy()
        hidden[:, COLUMNS["knobs"]] = np.nan
        return super().outlook(hidden)


class Rigid(StandingNetwork):
    """Knows nothing of the ways in which studies differ."""

    def outlook(self, columns: FloatArray) -> Outlook:
        outlook = super().outlook(columns)
        return outlook._replace(own=outlook.std, ways=np.zeros_like(outlook.ways))


def ablation_arms(task: str) -> dict[str, ArmFactory]:
    """Name to arm; the prior of each has seen nothing of the task."""
    return {
        "AeLLE, no spectra": partial(_without_spectra, task),
        "AeLLE, no prior": _without_prior,
        "AeLLE, names unknown": partial(_changed, task, Nameless),
        "AeLLE, reversed prior": partial(_changed, task, Reversed),
        "AeLLE, no ways": partial(_changed, task, Rigid),
        "AeLLE, no checkpoints": partial(_without_checkpoints, task),
        "AeLLE's sampler, SHA η=2": partial(_halving, task),
    }


def _without_spectra(task: str) -> Search:
    pruner = AeLLEPruner(features=("curve", "params"))
    return AeLLESampler(prior=prior_without(task)), pruner, resume_promising


def _without_prior() -> Search:
    return AeLLESampler(_recorded, prior=None), AeLLEPruner(), resume_promising


def _changed(task: str, kind: type[StandingNetwork]) -> Search:
    prior = prior_without(task)
    assert prior.network is not None
    changed = Prior(kind(**vars(prior.network)), tasks=prior.tasks)
    return AeLLESampler(_recorded, prior=changed), AeLLEPruner(), resume_promising


def _without_checkpoints(task: str) -> Search:
    return AeLLESampler(_recorded, prior=prior_without(task)), AeLLEPruner()


def _halving(task: str) -> Search:
    pruner = SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return AeLLESampler(_recorded, prior=prior_without(task)), pruner


def _recorded(params: dict[str, object]) -> None:
    """A race gives samplers the spectra that were recorded."""
