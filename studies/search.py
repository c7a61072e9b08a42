"""What every study shares: the command line, the objective, and the closing summary."""

from __future__ import annotations

import argparse
import os
import threading
import time
import warnings
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import optuna
import torch
from optuna.distributions import CategoricalDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import MaxTrialsCallback
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

import optuna_aelle as aelle
from optuna_aelle.backtest.arms import NONE
from optuna_aelle.backtest.arms import OURS
from optuna_aelle.backtest.arms import Steps
from optuna_aelle.backtest.arms import pruner_arms
from optuna_aelle.decisions.speech import predictor_status
from optuna_aelle.decisions.verdict import AELLE
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.decisions.wrapping import WrappingSampler
from optuna_aelle.decisions.wrapping import compile_spectra
from optuna_aelle.trials.attributes import fit_seconds
from optuna_aelle.trials.attributes import spectrum_seconds
from optuna_aelle.trials.continuation import continuations
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.trials.cost import trained_steps
from studies.against import compare
from studies.arguments import cells
from studies.arguments import device
from studies.arguments import n_jobs
from studies.arguments import nonnegative
from studies.arguments import positive
from studies.arguments import storage_url
from studies.cells import CELLS
from studies.cells import DEFAULT_CELLS
from studies.training import Epoch
from studies.training import Task
from studies.training import Training
from studies.training import untrained_spectrum

TRAINING_SECONDS_KEY = "training_seconds"
SAMPLER_SECONDS_KEY = "sampler_seconds"
# Name on the command line to name among the arms of a replay.
PRUNERS = {
    "aelle": OURS,
    "defaults": "Median",
    "median": "Median",
    "hyperband": "Hyperband, min 1",
    "sha": "SHA η=2, min 1",
    "none": NONE,
}
SAMPLERS = ("aelle", "defaults", "tpe", "random")


def make_pruner(name: str, n_epochs: int) -> BasePruner:
    """One of `PRUNERS`, for trials that report after epochs 0 to ``n_epochs − 1``."""
    return pruner_arms(Steps(first=0, last=n_epochs - 1))[PRUNERS[name]]()


def make_samplers(task: Task, seed: int, n_drawn: int = 0) -> dict[str, Callable[[], BaseSampler]]:
    """The `SAMPLERS`, by their names on the command line.

    Args:
        task: What the untrained networks are built for.
        seed: Of trainings and draws.
        n_drawn: Trials that the study already has.
    """
    draw_seed = seed + n_drawn

    def spectrum_fn(params: dict[str, Any]) -> Any:
        return untrained_spectrum(task, task.reduce(params), seed)

    return {
        "aelle": lambda: aelle.AeLLESampler(
            spectrum_fn, prior=task.prior, space=task.space(), seed=draw_seed
        ),
        "defaults": lambda: optuna.samplers.TPESampler(seed=draw_seed),
        "tpe": lambda: optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=False, seed=draw_seed
        ),
        "random": lambda: optuna.samplers.RandomSampler(seed=draw_seed),
    }


class WorkerSampler(WrappingSampler):
    """Draw as ``base`` does, but not what another worker of the same seed draws.

    The trials of a worker that is alone have successive numbers, and its draws are those of its
    seed. At the first number that is missing, another worker has drawn from the same seed since
    this one began: from there on, this one draws at random.

    Args:
        base: The sampler, with the seed that all workers share.
        first: The number that the next trial of the study gets.
    """

    def __init__(self, base: BaseSampler, first: int) -> None:
        super().__init__(base)
        self._expected: int | None = first
        self._lock = threading.Lock()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        with self._lock:
            if self._expected is not None and trial.number != self._expected:
                self._expected = None
                self._base.reseed_rng()
            elif self._expected is not None:
                self._expected += 1
        self._base.before_trial(study, trial)


def make_objective(
    task: Task,
    n_epochs: int,
    seed: int,
    on: torch.device | str = "cpu",
    *,
    with_spectra: bool = True,
    checkpoints: aelle.Checkpoints | None = None,
) -> Callable[[optuna.Trial], float]:
    """The objective: train one configuration, report after every epoch, stop where told to."""

    def objective(trial: optuna.Trial) -> float:
        params = task.suggest(trial)
        training = Training(task, params, seed=seed, with_spectra=with_spectra, device=on)
        value, seconds = float("nan"), 0.0

        def show(epoch: Epoch) -> None:
            if epoch.spectrum is not None:
                aelle.report_spectrum(trial, epoch.spectrum, epoch.step)
            if epoch.value is not None:
                trial.report(epoch.value, epoch.step)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            show(training.untrained())
            steps: Iterable[int] = range(n_epochs)
            if checkpoints is not None:
                steps = checkpoints.epochs(trial, n_epochs, **training.states)
            for step in steps:
                epoch = training.epoch(step)
                value, seconds = epoch.value or 0.0, seconds + epoch.seconds
                show(epoch)
        finally:
            trial.set_user_attr(TRAINING_SECONDS_KEY, round(seconds, 4))
        return value

    return objective


def main(task: Task, arguments: Sequence[str] | None = None) -> None:
    """Run a study from the command line; run it again to resume it."""
    options = _parse(task, arguments)
    task = task.over(options.cells)
    torch.set_num_threads(options.threads)
    # What goes wrong in a trial is raised anyway; an interruption needs no traceback.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    study = _search(task, options)
    if study is not None and options.against is not None:
        choice = {"pruner": "defaults", "sampler": "defaults", "no_plots": True}
        name = f"{options.study_name}-{options.against}"
        other = argparse.Namespace(**{**vars(options), **choice, "study_name": name})
        rival = _search(task, other)
        if rival is not None:
            ours = {options.pruner, options.sampler} == {"aelle"}
            label = "AeLLE" if ours else f"{options.sampler} + {options.pruner}"
            print(f"\n{compare(task, study, rival, label)}")


def _search(task: Task, options: argparse.Namespace) -> optuna.Study | None:
    """One study with its closing lines; None where it was interrupted."""
    study = optuna.create_study(
        study_name=options.study_name,
        storage=options.storage,
        direction=task.direction,
        pruner=make_pruner(options.pruner, options.epochs),
        load_if_exists=True,
    )
    study.set_metric_names([task.metric])
    drawn = study.get_trials(deepcopy=False)
    ended = sum(trial.state in _ENDED for trial in drawn)
    # A resumed study must not draw once more what it drew when it began.
    sampler = make_samplers(task, options.seed, len(drawn))[options.sampler]()
    study.sampler = WorkerSampler(sampler, len(drawn))
    if ended:
        print(f"Resuming '{options.study_name}': {ended} of {options.trials} trials are done.")
    # Other workers count, too; those that are in the middle of a trial then end it.
    callbacks: list[Callable[[optuna.Study, FrozenTrial], None]] = [
        MaxTrialsCallback(options.trials, states=_ENDED)
    ]
    if not options.no_plots:
        callbacks.append(aelle.DashboardCallback(every_n_trials=10))
    checkpoints = None
    if options.pruner == options.sampler == "aelle":
        checkpoints = aelle.Checkpoints(options.checkpoints)
        callbacks.append(checkpoints.resume_promising)
    if "aelle" in (options.pruner, options.sampler):
        _compile_spectra()
    objective = make_objective(
        task,
        options.epochs,
        options.seed,
        options.device,
        with_spectra="aelle" in (options.pruner, options.sampler),
        checkpoints=checkpoints,
    )
    try:
        optimize(study, objective, options.trials, options.n_jobs, callbacks)
    except KeyboardInterrupt:
        print("\nInterrupted. The same command resumes the study.")
        return None
    if not options.no_plots:
        aelle.save_dashboard_plots(study)
    overhead = _overhead_of_all_runs(study, sampler)
    print(summary(study, task, options.epochs, overhead))
    print(f"\nLook at it:  {_BIN}optuna-dashboard {options.storage}")
    return study


def _compile_spectra() -> None:
    """Before the search, and told where it takes longer than loading what has been compiled."""
    started = time.perf_counter()
    compile_spectra()
    seconds = time.perf_counter() - started
    if seconds > 3.0:
        print(f"Compiled or loaded the step loop of spectra in {seconds:.0f} s.")


def _overhead_of_all_runs(study: optuna.Study, sampler: BaseSampler) -> float:
    """Seconds that the sampler has taken, in earlier runs of the study, too."""
    own = sampler.overhead_seconds if isinstance(sampler, aelle.AeLLESampler) else 0.0
    total = float(study.user_attrs.get(SAMPLER_SECONDS_KEY, 0.0)) + own
    study.set_user_attr(SAMPLER_SECONDS_KEY, round(total, 4))
    return total


def optimize(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], float],
    n_trials: int,
    n_jobs: int,
    callbacks: Sequence[Callable[[optuna.Study, FrozenTrial], None]],
) -> None:
    """Run until so many trials have ended, those of other workers included."""
    while True:
        remaining = n_trials - len(study.get_trials(deepcopy=False, states=_ENDED))
        if remaining <= 0:
            return
        try:
            study.optimize(
                objective,
                n_trials=remaining,
                n_jobs=n_jobs,
                callbacks=[*callbacks],
                show_progress_bar=True,
            )
            return
        except ValueError as error:
            # SQLite may give a waiting trial to two workers; the other one has ended it.
            if not str(error).startswith("Cannot tell a "):
                raise


def summary(study: optuna.Study, task: Task, n_epochs: int, sampler_seconds: float) -> str:
    """What the study found, and what it cost."""
    ended = study.get_trials(deepcopy=False, states=_ENDED)
    trials = one_a_network(ended)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    untrained = sum(t.last_step is None for t in pruned)
    verdicts = [decode_verdict(t) for t in pruned]
    predicted = sum(verdict is not None and verdict.by == AELLE for verdict in verdicts)
    steps = trained_steps(ended)
    spent = sum(steps)
    # A study may have been begun with more epochs than it is resumed with.
    full = max(n_epochs, *steps, 0) * len(trials)
    training = sum(float(t.user_attrs.get(TRAINING_SECONDS_KEY, 0.0)) for t in ended)
    spectra = sum(map(spectrum_seconds, ended))
    fits = sum(fit_seconds(t) for t in ended) + sampler_seconds
    resumed = len(continuations(ended))
    networks = f" of {len(trials)} networks" if resumed else ""
    lines = [f"\n{task.name}: {len(ended)} trials{networks}, {len(complete)} trained to the end"]
    if complete:
        best = study.best_trial
        params = ", ".join(f"{k}={_short(v)}" for k, v in best.params.items())
        lines += [f"  best {task.metric}  {best.value:.4g}  (trial {best.number}: {params})"]
    lines += [
        f"  pruned            {len(pruned)} networks, {untrained} of them before their first "
        f"epoch, {predicted} by predictions; {resumed} times one went on later",
        f"  epochs            {spent} of the {full} of an unpruned study "
        f"({spent / max(full, 1):.0%})",
        f"  training          {training:.1f} s",
        f"  spectra           {spectra:.2f} s ({spectra / max(training, 1e-9):.1%} of training)",
        f"  fits and ranking  {fits:.2f} s ({fits / max(training, 1e-9):.1%} of training)",
    ]
    status = predictor_status(study)
    if status is not None:
        lines += ["  predictor"] + [f"    {part}" for part in status.split("; ")]
    return "\n".join(lines)


_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_BIN = ".venv/bin/" if os.path.exists(".venv/bin/optuna-dashboard") else ""


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _parse(task: Task, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m studies.{task.name}", description=(task.__doc__ or "").strip()
    )
    parser.add_argument(
        "--cells",
        type=cells,
        default=DEFAULT_CELLS,
        help=f"recurrences to search, separated by commas, of {', '.join(CELLS)}; "
        f"by default {','.join(DEFAULT_CELLS)}",
    )
    parser.add_argument("--trials", type=positive, default=40, help="those done before included")
    parser.add_argument("--epochs", type=positive, default=40, help="of a whole training")
    parser.add_argument("--storage", type=storage_url, default="sqlite:///aelle.db")
    parser.add_argument(
        "--study-name",
        help=f"one that is there is resumed; by default {task.name}, and the cells where they are "
        "others",
    )
    parser.add_argument("--checkpoints", default="checkpoints", help="folder of saved networks")
    parser.add_argument("--pruner", choices=sorted(PRUNERS), default="aelle")
    parser.add_argument("--sampler", choices=SAMPLERS, default="aelle")
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda, cuda:0 ...")
    parser.add_argument("--seed", type=nonnegative, default=0, help="of trainings and draws")
    parser.add_argument("--n-jobs", type=n_jobs, default=1, help="trials at once; -1: one a core")
    parser.add_argument("--threads", type=positive, default=1, help="torch threads per training")
    parser.add_argument(
        "--against", choices=["defaults"], help="search under Optuna's defaults, too, and compare"
    )
    parser.add_argument("--no-plots", action="store_true", help="save no dashboard plots")
    options = parser.parse_args(arguments)
    if options.study_name is None:
        others = () if options.cells == DEFAULT_CELLS else options.cells
        options.study_name = "-".join([task.name, *others])
    if (searched := _searched_cells(options)) not in (None, options.cells):
        parser.error(
            f"argument --cells: expected those of the study '{options.study_name}', which is "
            f"there already, got {','.join(options.cells)}. Resume it with --cells "
            f"{','.join(searched)}, or begin another one with --study-name"
        )
    return options


def _searched_cells(options: argparse.Namespace) -> tuple[str, ...] | None:
    """The cells of a study that is to be resumed, which Optuna lets nobody change."""
    try:
        study = optuna.load_study(study_name=options.study_name, storage=options.storage)
    except KeyError:
        return None
    for trial in study.get_trials(deepcopy=False):
        distribution = trial.distributions.get("cell")
        if isinstance(distribution, CategoricalDistribution):
            return tuple(map(str, distribution.choices))
    return None
