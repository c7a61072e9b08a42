"""Who is compared: the pruners of a replay, the searches of a race; Optuna's, tuned, and ours.

Studies, benchmarks and the command line take them from here, by name. A new pruner is one more
entry in `pruner_arms`, a new search one more in `search_arms`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from optuna.pruners import BasePruner
from optuna.pruners import HyperbandPruner
from optuna.pruners import MedianPruner
from optuna.pruners import NopPruner
from optuna.pruners import PercentilePruner
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import BaseSampler
from optuna.samplers import GPSampler
from optuna.samplers import RandomSampler
from optuna.samplers import TPESampler

from optuna_aelle.backtest.promotion import Promotion
from optuna_aelle.backtest.race import ArmFactory
from optuna_aelle.backtest.race import NativeArm
from optuna_aelle.backtest.replay import PrunerFactory
from optuna_aelle.backtest.searches import Callback
from optuna_aelle.decisions.halving import report_spacing
from optuna_aelle.decisions.pruner import AeLLEPruner
from optuna_aelle.decisions.resumption import resume_promising
from optuna_aelle.decisions.sampler import AeLLESampler
from optuna_aelle.trials.table import RecordedTrials

NONE = "none"
OURS = "AeLLE"
# One or two of each kind: what fits on a screen.
SHOWN = (
    NONE,
    "Median",
    "Median, warm-up 5",
    "Percentile 25",
    "SHA η=2, min 1",
    "SHA η=4, min 1",
    "Hyperband, min 1",
    OURS,
)


DEFAULTS = "Optuna's defaults"
# The same for searches: doing nothing, Optuna's defaults, the best of each kind.
SHOWN_SEARCHES = (
    "random, none",
    DEFAULTS,
    "TPE, none",
    "TPE, Hyperband, min 1",
    "TPE, SHA η=2, min 1",
    "GP, SHA η=2, min 1",
    "random, SHA η=2, min 1",
    "ASHA η=3",
    OURS,
)


@dataclass(frozen=True)
class Steps:
    """How trials count: the step of the first report, from one to the next, of the last one."""

    first: int = 1
    spacing: int = 1
    last: int = 1

    def __post_init__(self) -> None:
        if self.spacing < 1 or not 0 <= self.first <= self.last:
            raise ValueError(
                "Expected 0 <= first <= last and spacing >= 1, but got "
                f"first={self.first}, last={self.last}, spacing={self.spacing}."
            )

    @classmethod
    def of(cls, recorded: RecordedTrials) -> Steps:
        """As a table has them."""
        steps = recorded.steps
        return cls(steps[0], report_spacing(recorded.trials), steps[-1])

    @property
    def length(self) -> int:
        """Steps of a whole trial, whether it counts from 0 or from its first report."""
        return self.last - self.first + self.spacing


def pruner_arms(steps: Steps) -> dict[str, PrunerFactory]:
    """Name to a function that makes a fresh pruner.

    "Warm-up 5" and "min 3" count reports, whatever steps lie between them.
    """
    arms: dict[str, PrunerFactory] = {NONE: NopPruner, "Median": MedianPruner}
    for warmup in (1, 5):
        # A report at n_warmup_steps is judged.
        first_judged = steps.first + warmup * steps.spacing
        arms[f"Median, warm-up {warmup}"] = partial(MedianPruner, n_warmup_steps=first_judged)
    arms["Percentile 25"] = partial(PercentilePruner, 25.0)
    for eta in (2, 3, 4):
        for least in (1, 3):
            arms[f"SHA η={eta}, min {least}"] = partial(
                SuccessiveHalvingPruner,
                min_resource=least * steps.spacing,
                reduction_factor=eta,
            )
    for least in (1, 3):
        arms[f"Hyperband, min {least}"] = partial(
            HyperbandPruner,
            min_resource=least * steps.spacing,
            # Less would leave Hyperband without a bracket.
            max_resource=max(steps.length, least * steps.spacing),
            reduction_factor=3,
        )
    arms[OURS] = AeLLEPruner
    return arms


def shown_arms(steps: Steps) -> dict[str, PrunerFactory]:
    """Those of `pruner_arms` that the command line shows."""
    arms = pruner_arms(steps)
    return {name: arms[name] for name in SHOWN}


def search_arms(steps: Steps) -> dict[str, ArmFactory]:
    """Name to a function that makes a fresh arm of a `race`: ``sampler, pruner``, or another kind.

    TPE and the Gaussian process are those of Optuna; the former judges parameters one by one,
    which finds better networks than jointly, the latter after four finished trials instead of ten,
    which a race of twelve trainings hardly has.
    """
    pruners = pruner_arms(steps)
    arms: dict[str, ArmFactory] = {DEFAULTS: partial(_pair, TPESampler, MedianPruner)}
    samplers: dict[str, Callable[[], BaseSampler]] = {
        "random": RandomSampler,
        "TPE": partial(TPESampler, multivariate=False),
        "GP": partial(GPSampler, n_startup_trials=4),
    }
    for sampler_name, sampler in samplers.items():
        for pruner_name, pruner in pruners.items():
            if pruner_name.startswith((NONE, "Median", "Hyperband", "SHA")):
                arms[f"{sampler_name}, {pruner_name}"] = partial(_pair, sampler, pruner)
    for eta in (2, 3, 4):
        arms[f"ASHA η={eta}"] = partial(_promotion, eta)
    arms[OURS] = _ours
    return arms


def shown_search_arms(steps: Steps) -> dict[str, ArmFactory]:
    """Those of `search_arms` that the command line shows."""
    arms = search_arms(steps)
    return {name: arms[name] for name in SHOWN_SEARCHES}


def _pair(
    sampler: Callable[[], BaseSampler], pruner: Callable[[], BasePruner]
) -> tuple[BaseSampler, BasePruner]:
    return sampler(), pruner()


def _promotion(reduction_factor: int) -> NativeArm:
    return Promotion(reduction_factor)


def _ours() -> tuple[BaseSampler, BasePruner, Callback]:
    return AeLLESampler(_no_network), AeLLEPruner(), resume_promising


def _no_network(params: dict[str, object]) -> None:
    """A race gives samplers the spectra that were recorded."""
