"""Every decision of a study made once more, in a process that knows nothing but its storage.

``python -m tests.storages.again PICKLED_STORAGE NAME`` prints, of each trial in order and of each
moment at which its pruner was asked, what it decides now. The trials before are as they ended, the
trial itself is as it was: what it reported later, and what was written on it then, is left out.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle import AeLLEPruner
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.prediction.forecast import decode_forecasts
from optuna_aelle.trials.attributes import SPECTRUM_PREFIX


def decided(study: optuna.Study) -> list[list[Any]]:
    """Of each trial its number, where it was stopped, by whom, and all forecasts of it."""
    found = []
    for trial in study.trials:
        verdict = decode_verdict(trial)
        stopped = None if verdict is None else [verdict.step, verdict.by]
        found.append([trial.number, stopped, _forecasts(trial)])
    return found


def decided_again(study: optuna.Study) -> list[list[Any]]:
    """The same, by a pruner that is asked anew about each moment of each trial."""
    found = []
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        before = [t for t in trials if t.number < trial.number]
        found.append([trial.number, *_asked(study, before, trial)])
    return found


def _asked(study: optuna.Study, before: list[FrozenTrial], trial: FrozenTrial) -> list[Any]:
    then = optuna.create_study(direction=study.direction)
    then.add_trials(before)
    spectra = {k: x for k, x in trial.system_attrs.items() if k.startswith(SPECTRUM_PREFIX)}
    then.add_trial(
        create_trial(
            state=TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs=spectra,
        )
    )
    storage, running = then._storage, then.trials[-1]
    pruner = AeLLEPruner()
    moments: list[int | None] = [None, *sorted(trial.intermediate_values)]
    for step in moments:
        if step is not None:
            value = trial.intermediate_values[step]
            storage.set_trial_intermediate_value(running._trial_id, step, value)
        stopped = pruner.prune(then, then.trials[-1])
        if stopped:
            verdict = decode_verdict(then.trials[-1])
            assert verdict is not None
            return [[verdict.step, verdict.by], _forecasts(then.trials[-1])]
    return [None, _forecasts(then.trials[-1])]


def _forecasts(trial: FrozenTrial) -> dict[str, list[float]]:
    return {
        str(step): [forecast.standing, forecast.standing_std, forecast.value, forecast.chance]
        for step, forecast in decode_forecasts(trial).items()
    }


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    opened = pickle.loads(Path(sys.argv[1]).read_bytes())
    print(json.dumps(decided_again(optuna.load_study(study_name=sys.argv[2], storage=opened))))
