"""What does a table hold? From the recorded stacks to one `RecordedTrials` file.

Steps count epochs from 1, so that ``min_resource=1`` of a pruner means one epoch.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from optuna.distributions import BaseDistribution
from optuna.trial import create_trial

from benchmarks.environment import describe_environment
from benchmarks.record.plans import Plan
from benchmarks.record.spaces import Params
from benchmarks.record.spaces import search_space
from benchmarks.record.tasks import Task
from benchmarks.record.training import SPECTRUM_STEPS
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import encode_fingerprint
from optuna_aelle.trials.table import RecordedTrials

TABLES = Path(__file__).parents[1] / "tables"


def assemble(
    task: Task, plan: Plan, params: Sequence[Params], stacks: Sequence[Path]
) -> RecordedTrials:
    """Put the stacks of a table together, in the order of the configurations."""
    space = search_space(plan.space)
    n = len(params)
    arrays: dict[str, np.ndarray] = {}
    commits: set[str] = set()
    for path in stacks:
        with np.load(path, allow_pickle=False) as file:
            members = file["members"]
            commits.add(str(file["commit"]))
            for name in file.files:
                if name in ("members", "commit"):
                    continue
                part = file[name]
                whole = arrays.setdefault(name, np.full((n, *part.shape[1:]), np.nan))
                whole[members] = part
    trials = []
    for i, configuration in enumerate(params):
        attributes: dict[str, object] = {}
        # A short training has only the first of these.
        for column, points in enumerate(arrays["spectra"][i]):
            step = SPECTRUM_STEPS[column]
            if not np.isnan(points).any():
                attributes |= encode_fingerprint(
                    points,
                    step if step == UNTRAINED_STEP else step + 1,
                    state_size=int(arrays["state_sizes"][i]),
                    seconds=float(arrays["spectrum_seconds"][i, column]),
                )
        values = arrays["validation"][i]
        trial = create_trial(
            value=float(values[-1]),
            params=dict(configuration),
            distributions=_distributions(configuration, space),
            intermediate_values=dict(enumerate(map(float, values), start=1)),
            system_attrs=attributes,
        )
        trial.number = i
        trial.datetime_start = trial.datetime_complete = None
        trials.append(trial)
    return RecordedTrials(
        name=plan.name,
        direction=task.direction,
        trials=tuple(trials),
        step_seconds=arrays["seconds"].mean(axis=1).astype(np.float32).astype(np.float64),
        curves={
            name: arrays[name].astype(np.float32).astype(np.float64)
            for name in ("test", "train_loss", "seconds")
        },
        metadata={
            "task": task.name,
            "cell": plan.cell,
            "metric": task.metric,
            "description": (task.__doc__ or "").split("\n")[0],
            "data_version": task.data_version,
            "recorded": datetime.date.today().isoformat(),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "trained_at_commits": sorted(commits),
            "environment": describe_environment(),
        },
    )


def _distributions(
    params: Params, space: dict[str, BaseDistribution]
) -> dict[str, BaseDistribution]:
    return {name: space[name] for name in params}
