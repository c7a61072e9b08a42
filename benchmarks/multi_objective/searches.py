"""Searches for small networks that err little, over recorded trainings.

Notation: of each configuration the error (the table's score, where it ended) and the size, the
number of weights of its recurrent layers; both as *losses* in [0, 1], 0 is the best. The error's
loss is 1 at the third quartile of the table and beyond, the size's is logarithmic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.samplers import BaseSampler
from optuna.samplers import NSGAIISampler
from optuna.samplers import RandomSampler
from optuna.samplers import TPESampler
from optuna.trial import Trial
from optuna.trial import TrialState

from benchmarks.race.priors import task_of
from benchmarks.record.tasks import TASKS
from benchmarks.record.weights import N_GATES
from optuna_aelle import AeLLESampler
from optuna_aelle import RecordedTrials
from optuna_aelle import should_prune
from optuna_aelle.backtest.pool import Pool
from optuna_aelle.backtest.searches import SPECTRA
from optuna_aelle.backtest.searches import ChosenSampler
from optuna_aelle.backtest.searches import over_pool
from optuna_aelle.backtest.streams import suggest
from optuna_aelle.trials.attributes import SPECTRUM_PREFIX
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.storage import write_system_attributes

FloatArray = npt.NDArray[np.float64]

_WORST_SHARE = 0.75


@dataclass(frozen=True)
class Arm:
    """A way to search.

    Attributes:
        sampler: Makes a sampler, of a seed.
        prunes: Whether `should_prune` decides after each epoch.
    """

    sampler: Callable[[int], BaseSampler]
    prunes: bool


def arms() -> dict[str, Arm]:
    """By name; NSGA-II without pruning is what Optuna does by default."""

    def ours(seed: int) -> BaseSampler:
        # What spectra there are, the pool gives.
        return AeLLESampler(lambda params: None, seed=seed)

    made = partial(_made, TPESampler)
    return {
        "NSGA-II": Arm(partial(_made, NSGAIISampler), prunes=False),
        "TPE": Arm(made, prunes=False),
        "random": Arm(partial(_made, RandomSampler), prunes=False),
        "random, should_prune": Arm(partial(_made, RandomSampler), prunes=True),
        "TPE, should_prune": Arm(made, prunes=True),
        "AeLLE": Arm(ours, prunes=False),
        "AeLLE, should_prune": Arm(ours, prunes=True),
    }


def _made(kind: Callable[..., BaseSampler], seed: int) -> BaseSampler:
    return kind(seed=seed)


def sizes_of(recorded: RecordedTrials) -> npt.NDArray[np.int64]:
    """Weights of the recurrent layers of each configuration, ``(n,)``."""
    # Of the class: making a task loads its data.
    task: Any = TASKS[task_of(recorded.name)]
    cell_of_all = recorded.metadata["cell"]
    sizes = []
    for trial in recorded.trials:
        hidden = trial.params["hidden_size"]
        n_gates = N_GATES[trial.params.get("cell", cell_of_all)]
        n_layers = trial.params.get("n_layers", 1)
        widths = [task.n_inputs, *[hidden] * (n_layers - 1)]
        sizes.append(sum(n_gates * hidden * (width + hidden + 1) for width in widths))
    return np.array(sizes)


def losses_of(recorded: RecordedTrials) -> FloatArray:
    """Error and size of each configuration as losses in [0, 1], ``(n, 2)``."""
    sign = -1.0 if recorded.direction == "maximize" else 1.0
    errors = sign * recorded.finals
    best, worst = np.nanmin(errors), np.nanquantile(errors, _WORST_SHARE)
    sizes = np.log(sizes_of(recorded))
    return np.stack(
        [
            np.nan_to_num(np.clip((errors - best) / (worst - best), 0.0, 1.0), nan=1.0),
            (sizes - sizes.min()) / (sizes.max() - sizes.min()),
        ],
        axis=1,
    )


def hypervolume(losses: FloatArray) -> float:
    """Of two losses: the share of the unit square that some of ``losses (m, 2)`` dominate."""
    volume, least = 0.0, 1.0
    for first, second in losses[np.lexsort((losses[:, 1], losses[:, 0]))].tolist():
        if second < least:
            volume += (1.0 - first) * (least - second)
            least = second
    return volume


def search(
    recorded: RecordedTrials,
    pool: Pool,
    sizes: npt.NDArray[np.int64],
    arm: Arm,
    seed: int,
    budget: int,
) -> list[tuple[int, int]]:
    """Let an arm train configurations of a pool for ``budget`` epochs.

    Returns:
        Of each training that came to its end: epochs until then, of all together, and its position
        in the pool.
    """
    ended: list[tuple[int, int]] = []
    epochs = 0
    proposals, sampler = over_pool(pool, list(range(len(pool))), arm.sampler(seed))
    study = optuna.create_study(
        study_name=f"{recorded.name}-{seed}",
        directions=[recorded.direction, "minimize"],
        sampler=ChosenSampler(sampler, proposals),
    )
    reads = SPECTRA in getattr(sampler, "reads", ()) or arm.prunes
    while proposals.n_left and epochs < budget:
        trial = study.ask()
        position = proposals.chosen
        size = float(sizes[pool.indices[position]])
        for name, distribution in pool.configurations[position].distributions.items():
            suggest(trial, name, distribution)
        due = list(pool.spectrum_steps) if reads else []
        _report_spectra(pool, position, trial, due, UNTRAINED_STEP)
        while not pool.is_over(position):
            value = pool.train(position)
            epochs += 1
            step = pool.steps(position)[-1]
            _report_spectra(pool, position, trial, due, step)
            if arm.prunes and should_prune(study, trial, (value, size), step):
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            values = pool.trial(position).values
            if values is None or not np.isfinite(values[0]):
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, (values[0], size))
                ended.append((epochs, position))
    return ended


def _report_spectra(pool: Pool, position: int, trial: Trial, due: list[int], step: int) -> None:
    while due and due[0] <= step:
        at = due.pop(0)
        payload: Any = pool.payload(position, at)
        if payload is not None:
            told = {f"{SPECTRUM_PREFIX}{at}": {**payload, "trial": trial.number}}
            write_system_attributes(trial.study, trial, told)
