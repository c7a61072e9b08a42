"""One search, by ours or by a peer, and what is written down of it."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from dataclasses import dataclass
from functools import cache
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import HyperbandPruner
from optuna.pruners import MedianPruner
from optuna.pruners import NopPruner
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import RandomSampler
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

import optuna_aelle as aelle
from benchmarks.environment import PACKAGES
from benchmarks.live.tasks import FlipFlop
from benchmarks.live.tasks import MackeyGlass
from benchmarks.live.tasks import TemporalOrder
from optuna_aelle.trials.attributes import fit_seconds
from optuna_aelle.trials.attributes import spectrum_seconds
from optuna_aelle.trials.cost import trained_steps
from studies.digits import Digits
from studies.search import TRAINING_SECONDS_KEY
from studies.search import make_objective
from studies.training import Task
from studies.training import untrained_spectrum

OURS, DEFAULTS = "AeLLE", "Optuna's defaults"
_ARMS: dict[str, Callable[[int], tuple[Any, Any]]] = {
    DEFAULTS: lambda seed: (TPESampler(seed=seed), MedianPruner()),
    "TPE, Hyperband": lambda seed: (TPESampler(seed=seed), HyperbandPruner()),
    "TPE, SHA η=2, min 1": lambda seed: (
        TPESampler(seed=seed),
        SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    ),
    "random, none": lambda seed: (RandomSampler(seed=seed), NopPruner()),
    "TPE, none": lambda seed: (TPESampler(seed=seed), NopPruner()),
}
_CACHE = Path("cache") / "live"


@dataclass(frozen=True)
class Plan:
    """How a task is searched.

    Attributes:
        task: Makes it.
        n_epochs: Of a whole training.
        seconds: For each search; None for a number of networks.
        n_trials: Networks of a search; None for seconds.
        seeds: How many.
        arms: Names of those that are compared with ours.
    """

    task: type[Task]
    n_epochs: int
    seconds: float | None
    n_trials: int | None
    seeds: int
    arms: tuple[str, ...]


_PEERS = (DEFAULTS, "TPE, Hyperband", "TPE, SHA η=2, min 1")
PLANS = {
    "flipflop": Plan(FlipFlop, 30, 120.0, None, 3, _PEERS),
    "mackeyglass": Plan(MackeyGlass, 30, 80.0, None, 3, _PEERS),
    "order": Plan(TemporalOrder, 9, None, 40, 10, ("random, none",)),
    "digits": Plan(Digits, 40, 120.0, None, 10, (DEFAULTS,)),
    # What `make study` does.
    "study": Plan(Digits, 40, None, 40, 4, (DEFAULTS, "TPE, none")),
}


@dataclass(frozen=True)
class Job:
    """One search."""

    plan: str
    arm: str
    seed: int

    @property
    def path(self) -> Path:
        """Of what is kept."""
        name = "".join(c if c.isalnum() else "_" for c in f"{self.plan}-{self.arm}-{self.seed}")
        # Of other code or another plan it is another search.
        digest = hashlib.sha256(f"{_code_version()} {PLANS[self.plan]}".encode()).hexdigest()
        return _CACHE / digest[:12] / f"{name}.json"


@cache
def _code_version() -> str:
    """A hash of everything that decides how a search goes: code, priors, versions."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256(json.dumps([version(name) for name in PACKAGES]).encode())
    for source in ("optuna_aelle", "studies", "benchmarks/live"):
        for file in sorted((root / source).rglob("*")):
            if file.suffix in (".py", ".npz"):
                digest.update(file.read_bytes())
    return digest.hexdigest()


def run(job: Job) -> dict[str, Any]:
    """One search; read where it has been made before."""
    if job.path.exists():
        kept: dict[str, Any] = json.loads(job.path.read_text())
        return kept
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)
    torch.set_num_threads(1)
    found = {**asdict(job), **_search(PLANS[job.plan], job)}
    job.path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = job.path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(found))
    unfinished.rename(job.path)
    return found


def _search(plan: Plan, job: Job) -> dict[str, Any]:
    task = plan.task()
    callbacks: list[Callable[[optuna.Study, FrozenTrial], None]] = []
    checkpoints = None
    with tempfile.TemporaryDirectory() as folder:
        sampler: Any
        if job.arm == OURS:
            checkpoints = aelle.Checkpoints(folder)
            callbacks.append(checkpoints.resume_promising)
            spectrum = partial(_untrained, task, job.seed)
            sampler = aelle.AeLLESampler(
                spectrum, prior=task.prior, space=task.space(), seed=job.seed
            )
            pruner: Any = aelle.AeLLEPruner()
        else:
            sampler, pruner = _ARMS[job.arm](job.seed)
        study = optuna.create_study(direction=task.direction, sampler=sampler, pruner=pruner)
        objective = make_objective(
            task, plan.n_epochs, job.seed, with_spectra=job.arm == OURS, checkpoints=checkpoints
        )
        rows: list[tuple[float, int, float | None]] = []
        started = time.perf_counter()

        def note(study: optuna.Study, trial: FrozenTrial) -> None:
            finished = trial.value if trial.state == TrialState.COMPLETE else None
            epochs = sum(trained_steps(study.get_trials(deepcopy=False)))
            rows.append((round(time.perf_counter() - started, 3), epochs, finished))

        study.optimize(
            objective, n_trials=plan.n_trials, timeout=plan.seconds, callbacks=[note, *callbacks]
        )
    trials = study.get_trials(deepcopy=False)
    training = sum(float(t.user_attrs.get(TRAINING_SECONDS_KEY, 0.0)) for t in trials)
    own = sum(fit_seconds(t) for t in trials) + getattr(sampler, "overhead_seconds", 0.0)
    spectra = sum(map(spectrum_seconds, trials))
    return {
        "rows": rows,
        "training_seconds": round(training, 3),
        "own_seconds": round(own + spectra, 3),
        "elapsed": round(time.perf_counter() - started, 3),
    }


def _untrained(task: Task, seed: int, params: dict[str, Any]) -> Any:
    return untrained_spectrum(task, task.reduce(params), seed)
