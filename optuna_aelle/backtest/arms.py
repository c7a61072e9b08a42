"""The pruners that a replay compares: none, Optuna's as they come and tuned, and ours.

Studies, benchmarks and the command line take them from here, by name. A new arm is one more entry
in `pruner_arms`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from optuna.pruners import HyperbandPruner
from optuna.pruners import MedianPruner
from optuna.pruners import NopPruner
from optuna.pruners import PercentilePruner
from optuna.pruners import SuccessiveHalvingPruner

from optuna_aelle.backtest.replay import PrunerFactory
from optuna_aelle.decisions.pruner import AeLLEPruner
from optuna_aelle.decisions.pruner import report_spacing
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
