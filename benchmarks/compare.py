"""How much training does each pruner need to find the same network?

Both studies run live under every arm: real Optuna studies, real pruners, the same stream of random
configurations for all pruners of a seed. Each configuration is trained once and kept
(`benchmarks.trainings`); an arm that asks for it again gets the same epochs, spectra and seconds.
The method is charged for itself: seconds for spectra, fits and ranking count as epochs, at the
mean seconds of an epoch of the same task.

    python -m benchmarks.compare                 # everything (an hour on two cores when new)
    python -m benchmarks.compare --tasks recall --seeds 2 --trials 20 --epochs 10
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.pruners import BasePruner
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import BaseSampler
from tqdm import tqdm

from benchmarks.compare_figure import draw
from benchmarks.compare_figure import table
from benchmarks.environment import RESULTS
from benchmarks.environment import describe_environment
from benchmarks.trainings import Trainings
from optuna_aelle import AeLLEPruner
from optuna_aelle import AeLLESampler
from optuna_aelle import report_spectrum
from optuna_aelle.records import fit_seconds
from studies.digits import Digits
from studies.recall import Recall
from studies.search import make_pruners
from studies.search import make_samplers
from studies.training import SPECTRUM_EPOCHS
from studies.training import Task

TASKS: dict[str, Callable[[], Task]] = {"digits": Digits, "recall": Recall}


@dataclass(frozen=True)
class Arm:
    """One way to search; ``sampler`` as on the command line of the studies."""

    name: str
    pruner: Callable[[], BasePruner]
    sampler: str = "random"


@dataclass(frozen=True)
class Run:
    """One study under one arm.

    Attributes:
        epochs: Epochs trained.
        overhead_epochs: Seconds of spectra, fits and ranking, in epochs.
        share: Both together, as a share of the unpruned study's epochs.
        best: Best value that a trial trained to the end has reached.
        costs: Epochs charged when ``bests`` improved.
        bests: Best value so far, at ``costs``.
    """

    task: str
    arm: str
    seed: int
    epochs: int
    overhead_epochs: float
    share: float
    best: float | None
    costs: list[float]
    bests: list[float]
    n_complete: int
    n_pruned_untrained: int


def arms(n_epochs: int) -> list[Arm]:
    """The arms: unpruned, Optuna's pruners as they come and tuned, and this package's."""
    stock = make_pruners(n_epochs)
    return [
        Arm("none", stock["none"]),
        Arm("Median", stock["median"]),
        Arm("Hyperband", stock["hyperband"]),
        Arm("SHA η=2", stock["sha"]),
        Arm("SHA η=3", lambda: SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)),
        Arm("SHA η=4", lambda: SuccessiveHalvingPruner(min_resource=1, reduction_factor=4)),
        Arm("AeLLE", AeLLEPruner),
        Arm("AeLLE, no spectra", lambda: AeLLEPruner(features=("curve", "params"))),
        Arm(
            "AeLLE over SHA η=4",
            lambda: AeLLEPruner(SuccessiveHalvingPruner(min_resource=1, reduction_factor=4)),
        ),
        Arm("TPE + SHA η=2", stock["sha"], sampler="tpe"),
        Arm("AeLLE sampler + pruner", AeLLEPruner, sampler="aelle"),
    ]


def run_arm(arm: Arm, trainings: Trainings, n_trials: int) -> Run:
    """Run one study live and keep its account."""
    task, seed = trainings.task, trainings.seed
    sampler: BaseSampler = make_samplers(task, seed)[arm.sampler]()
    study = optuna.create_study(
        study_name=f"{task.name}-{seed}",
        direction=task.direction,
        sampler=sampler,
        pruner=arm.pruner(),
    )
    second_epochs = 1.0 / trainings.mean_epoch_seconds()
    epochs, spectrum_seconds = 0, 0.0
    uses_spectra = arm.name.startswith("AeLLE") and "no spectra" not in arm.name
    costs: list[float] = []
    bests: list[float] = []

    def overhead() -> float:
        fits = sum(fit_seconds(t) for t in study.get_trials(deepcopy=False))
        ranking = sampler.overhead_seconds if isinstance(sampler, AeLLESampler) else 0.0
        return (spectrum_seconds + fits + ranking) * second_epochs

    def objective(trial: optuna.Trial) -> float:
        nonlocal epochs, spectrum_seconds
        value = float("nan")
        for epoch in trainings.epochs(task.suggest(trial)):
            if uses_spectra and epoch.exponents is not None and epoch.step in SPECTRUM_EPOCHS:
                report_spectrum(trial, epoch.exponents, epoch.step)
                spectrum_seconds += epoch.spectrum_seconds
            if epoch.value is not None:
                value = epoch.value
                epochs += 1
                trial.report(value, epoch.step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    def keep_account(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.state == optuna.trial.TrialState.COMPLETE:
            best = study.best_value
            if not bests or best != bests[-1]:
                costs.append(round(epochs + overhead(), 2))
                bests.append(best)

    study.optimize(objective, n_trials=n_trials, callbacks=[keep_account])
    trials = study.get_trials(deepcopy=False)
    return Run(
        task=task.name,
        arm=arm.name,
        seed=seed,
        epochs=epochs,
        overhead_epochs=round(overhead(), 2),
        share=round((epochs + overhead()) / (n_trials * trainings.n_epochs), 4),
        best=bests[-1] if bests else None,
        costs=costs,
        bests=bests,
        n_complete=sum(t.state == optuna.trial.TrialState.COMPLETE for t in trials),
        n_pruned_untrained=sum(
            t.state == optuna.trial.TrialState.PRUNED and t.last_step is None for t in trials
        ),
    )


def regret(run: Run, finals: Sequence[float], sign: float) -> float:
    """How far the best found lies behind the best there was: 0 that one, 1 the median one."""
    values = sign * np.asarray(finals)
    best, middle = values.max(), np.median(values)
    if run.best is None:
        return 1.0
    return float((best - sign * run.best) / max(best - middle, 1e-12))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison, write JSON, draw the figure, print the table."""
    options = _parse(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    runs: list[Run] = []
    rows: list[dict[str, object]] = []
    for name in options.tasks:
        task = TASKS[name]()
        sign = 1.0 if task.direction == "maximize" else -1.0
        for seed in tqdm(range(options.seeds), desc=name):
            trainings = Trainings(task, seed, options.epochs, options.cache)
            finals = trainings.train_stream(options.trials)
            for arm in arms(options.epochs):
                if arm.sampler != "random" and seed >= options.sampler_seeds:
                    continue
                run = run_arm(arm, trainings, options.trials)
                runs.append(run)
                rows.append({**asdict(run), "regret": round(regret(run, finals, sign), 5)})
    results = {
        "command": f"python -m benchmarks.compare --seeds {options.seeds} "
        f"--sampler-seeds {options.sampler_seeds} --trials {options.trials} "
        f"--epochs {options.epochs}",
        "environment": describe_environment(),
        "n_trials": options.trials,
        "n_epochs": options.epochs,
        "runs": rows,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "compare.json"
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    draw(path, options.output / "compare.png")
    print(table(path))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=sorted(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--sampler-seeds",
        type=int,
        default=3,
        help="seeds for the arms with a sampler, which train configurations of their own",
    )
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--cache", type=Path, default=Path("cache/trainings"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
