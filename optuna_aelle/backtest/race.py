"""Which search reaches the best network for an equal budget of training?

`replay` asks what a pruner saves on one stream of configurations. A race asks what a person wants
to know: every arm may start any configuration of a table, stop it, and, if it keeps checkpoints,
go on with it later, and spends the same number of epochs. What it computes for itself, and the
spectra that it asks for, count as epochs.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from typing import Any
from typing import Protocol

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from optuna_aelle._warnings import AeLLEWarning
from optuna_aelle.backtest.checks import check_recorded
from optuna_aelle.backtest.checks import check_whole
from optuna_aelle.backtest.outcomes import tamed
from optuna_aelle.backtest.outcomes import yardstick
from optuna_aelle.backtest.pool import BudgetSpent
from optuna_aelle.backtest.pool import Course
from optuna_aelle.backtest.pool import FloatArray
from optuna_aelle.backtest.pool import Pool
from optuna_aelle.backtest.pool import StandingPrior
from optuna_aelle.backtest.replay import draw_seed
from optuna_aelle.backtest.replay import told_once
from optuna_aelle.backtest.replay import warm_up
from optuna_aelle.backtest.replay import warn_of_own_task
from optuna_aelle.backtest.replay import warn_of_pruned
from optuna_aelle.backtest.searches import Search
from optuna_aelle.trials.table import RecordedTrials

if TYPE_CHECKING:
    import pandas as pd

# Rows of each arm and repeat: nine within the time of one whole training.
POINTS_A_TRAINING = 9


class NativeArm(Protocol):
    """A search that trains configurations of a pool itself, as it likes, until it is ended."""

    def __call__(self, pool: Pool, seed: int, /) -> None: ...


# Makes ``(sampler, pruner, *callbacks)`` or a native arm, afresh for each repeat; a parameter
# ``seed``, if it has one, is given the repeat's.
ArmFactory = Callable[..., "NativeArm | tuple[Any, ...]"]


def race(
    recorded: RecordedTrials,
    arms: Mapping[str, ArmFactory],
    *,
    budget: float,
    n_repeats: int = 20,
    n_configs: int | None = None,
    seed: int = 0,
    prior: StandingPrior | None = None,
    spectrum_steps: Collection[int] | None = None,
    show_progress_bar: bool = False,
) -> pd.DataFrame:
    """Let every arm spend the same budget on the same configurations, and compare.

    Args:
        recorded: The table, all of it trained to the end.
        arms: Name to a factory without arguments (or with ``seed`` alone) that makes a fresh arm:
            an Optuna sampler, a pruner and any callbacks, which run a real study whose
            configurations are those of the pool (`optuna_aelle.backtest.proposals`), or a
            `NativeArm`, which is called with a `Pool` and a seed and trains what it likes. Beside
            callbacks all trainings are checkpointed: what `resume_promising` enqueues goes on.
        budget: Epochs (steps, as the trials number them) that each arm may spend: those that it
            trains, and its own seconds as epochs: those of the processor, on one thread. An epoch
            that was begun within it is finished.
        n_repeats: Runs of each arm, each with another pool in another order; the same for all
            arms.
        n_configs: Configurations of a pool, drawn at random; all by default.
        seed: Of pools, orders and arms.
        prior: Knowledge of other studies for the arms that use it (``pool.prior``): one that has
            not learned from this table's own task, as ``prior.tasks`` may tell.
        spectrum_steps: Steps whose spectra samplers and pruners are given, and charged, −1 for
            the untrained network; all by default.
        show_progress_bar: Whether to show one.

    Returns:
        One row an arm, repeat and number of epochs spent:

        - ``arm``, ``repeat``, ``epochs``: nine rows for each whole training;
        - ``regret_final``: how far the best network trained to its end lies behind the best one of
          the pool, in units of the pool's best-to-median range of final values; at most 1, which
          is also the regret of having nothing;
        - ``regret_seen``: the same for the best value reported at any epoch, against the best
          that any of the pool ever reports, in the same units;
        - ``regret_final_long``, ``regret_seen_long``: the same where an epoch takes as long as a
          hundred fingerprints, as real trainings do and those of benchmark tables may not: what
          an arm takes for itself counts accordingly less (where epochs are as long already, as
          much);
        - ``n_started``, ``n_finished``: configurations so far; ``overhead``: epochs of ``epochs``
          that the arm has spent on itself, as recorded.

        The rows of an arm that has raised are NaN, and a warning says why.

    Raises:
        ValueError: Fewer configurations than ``n_configs``, a budget below one training or beyond
            all of them, no arm, ``n_repeats`` below 1, or a trial that cannot be trained again.
        TypeError: A number is no integer.
        RuntimeError: Every arm has raised.

    Example:
        >>> from optuna.pruners import SuccessiveHalvingPruner
        >>> from optuna.samplers import RandomSampler, TPESampler
        >>> recorded = RecordedTrials.from_study(study)
        >>> longest = max(recorded.trained_steps)
        >>> frame = race(
        ...     recorded,
        ...     {
        ...         "random": lambda: (RandomSampler(), optuna.pruners.NopPruner()),
        ...         "TPE + halving": lambda: (TPESampler(), SuccessiveHalvingPruner()),
        ...     },
        ...     budget=3 * longest,
        ...     n_repeats=2,
        ... )
        >>> frame.groupby(["arm", "epochs"])[["regret_final", "regret_seen"]].mean()
    """
    check_recorded(recorded)
    n_repeats = check_whole("n_repeats", n_repeats, 1)
    seed = check_whole("seed", seed, 0)
    n_configs = len(recorded) if n_configs is None else check_whole("n_configs", n_configs, 0)
    _check(recorded, arms, budget, n_configs)
    warn_of_pruned(recorded)
    warn_of_own_task(recorded.task, recorded.name, prior)
    rows: list[pd.DataFrame] = []
    failures: list[str] = []
    with (
        told_once(recorded),
        tqdm(
            total=n_repeats * len(arms), desc=recorded.name, disable=not show_progress_bar
        ) as bar,
    ):
        for repeat in range(n_repeats):
            order = np.random.default_rng([seed, repeat]).permutation(len(recorded))[:n_configs]
            for name, factory in arms.items():
                pool = Pool(
                    recorded,
                    order.tolist(),
                    budget=budget,
                    prior=prior,
                    spectrum_steps=spectrum_steps,
                )
                failure = run_arm(factory, pool, draw_seed(seed, repeat))
                part = measure_course(recorded, order.tolist(), pool)
                if failure is not None:
                    failures.append(f"Arm {name!r} raised in repeat {repeat}, {_said(failure)}")
                    warnings.warn(
                        f"{failures[-1]}. Its rows of this repeat are NaN.",
                        AeLLEWarning,
                        stacklevel=2,
                    )
                    part.loc[:, part.columns != "epochs"] = math.nan
                part.insert(0, "repeat", repeat)
                part.insert(0, "arm", name)
                rows.append(part)
                bar.update()
    if len(failures) == len(rows):
        raise RuntimeError(f"Every arm has raised. {failures[0]}.")
    import pandas as pd

    return pd.concat(rows, ignore_index=True)


def run_arm(factory: ArmFactory, pool: Pool, seed: int) -> Exception | None:
    """Let an arm spend the budget of a pool; what it raised, if it did."""
    try:
        with pool.uncharged():
            warm_up()
            takes_seed = "seed" in inspect.signature(factory).parameters
            made = factory(seed=seed) if takes_seed else factory()
            arm = Search(*made) if isinstance(made, tuple) else made
            if not callable(arm):
                raise TypeError(
                    "expected a sampler and a pruner, or a function of (pool, seed), but the "
                    f"factory made {made!r}"
                )
        with one_thread():
            arm(pool, seed)
    except BudgetSpent:
        return None
    except Exception as error:
        return error
    return None


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads that wait for each other would be charged as if they had worked."""
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def measure_course(recorded: RecordedTrials, order: list[int], pool: Pool) -> pd.DataFrame:
    """The columns of `race`, of one arm and repeat."""
    import pandas as pd

    course = pool.course
    finals = pool.sign * tamed(recorded.finals[order])
    best, spread = yardstick(finals)
    reports = [value for i in order for value in recorded.trials[i].intermediate_values.values()]
    best_seen, _ = yardstick(pool.sign * tamed(np.array(reports)))
    # In the longest training of the table, so that all pools have the same rows.
    point = int(recorded.trained_steps.max()) / POINTS_A_TRAINING
    epochs = (point * np.arange(1, math.floor(pool.budget / point + 1e-9) + 1)).round(6)
    columns: dict[str, Any] = {"epochs": epochs}
    seen = _cumulative_best(pool.sign * tamed(course.values))
    ended = _cumulative_best(pool.sign * tamed(course.ends))
    for suffix, step_seconds in zip(("", "_long"), pool.step_seconds, strict=True):
        costs = course.steps + course.seconds / step_seconds
        # What was begun within the budget is finished.
        rows = np.searchsorted(costs, epochs - 1e-9, side="left")
        for kind, curve, reference in (("final", ended, best), ("seen", seen, best_seen)):
            have = np.concatenate([[-np.inf], curve])[rows]
            found = np.isfinite(have)
            # Without any the reference is −inf, and nothing is found.
            behind = np.where(found, max(reference, -1e308) - np.where(found, have, 0.0), 0.0)
            share = np.clip(behind, 0.0, spread) / spread
            columns[f"regret_{kind}{suffix}"] = np.where(found, share, 1.0)
        if not suffix:
            columns |= _counts(course, rows, step_seconds)
    return pd.DataFrame(columns)


def _counts(course: Course, rows: Any, step_seconds: float) -> dict[str, Any]:
    """How far an arm was after so many rows of its course."""
    _, first = np.unique(course.positions, return_index=True)
    started = np.zeros(len(course.positions) + 1)
    started[first + 1] = 1.0
    finished = np.concatenate([[0.0], np.isfinite(course.ends)])
    seconds = np.concatenate([[0.0], course.seconds])
    return {
        "n_started": np.cumsum(started)[rows],
        "n_finished": np.cumsum(finished)[rows],
        "overhead": seconds[rows] / step_seconds,
    }


def _cumulative_best(values: FloatArray) -> FloatArray:
    return np.fmax.accumulate(np.where(np.isnan(values), -np.inf, values))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _check(
    recorded: RecordedTrials,
    arms: Mapping[str, ArmFactory],
    budget: float,
    n_configs: int,
) -> None:
    if not arms:
        raise ValueError("Expected at least one arm, got none.")
    for name, factory in arms.items():
        if not _is_factory(factory):
            raise ValueError(
                f"Expected of arm {name!r} a function without arguments (or with seed alone) that "
                "makes a sampler and a pruner, or a function of (pool, seed), such as "
                f"`lambda: (TPESampler(), MedianPruner())`, but got {factory!r}."
            )
    if not 2 <= n_configs <= len(recorded):
        raise ValueError(
            f"n_configs must be between 2 and the {len(recorded)} recorded trials, but got "
            f"{n_configs}."
        )
    steps = np.sort(recorded.trained_steps)
    if not steps[-1] <= budget:
        raise ValueError(
            f"Expected a budget of at least one training, {steps[-1]} steps, but got {budget:g}."
        )
    # The least that a pool may have.
    everything = int(steps[:n_configs].sum())
    if budget > everything:
        raise ValueError(
            "Expected a budget of at most what it takes to train all of "
            f"{n_configs} configurations, {everything} steps, but got {budget:g}: every arm would "
            "have trained everything."
        )


def _is_factory(factory: object) -> bool:
    if not callable(factory):
        return False
    needed = {
        name
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    return needed <= {"seed"}
