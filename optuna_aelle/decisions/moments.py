"""When a pruner is to look at a trial, and whether there is anything to hold against it."""

from __future__ import annotations

from optuna.study import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.prediction.curves import reports
from optuna_aelle.prediction.curves import values_of_peers
from optuna_aelle.trials.storage import every_trial

# Before so many reports, halving decides as well as any prediction.
_FIRST_RUNG = 4
# The top third of a rung is never stopped by a prediction: on public learning curves of recurrent
# networks this halved the regret of pruning by the chance to beat the best.
RUNG_FLOOR = 1.0 / 3.0


def only_failures_before(study: Study, trial: FrozenTrial) -> bool:
    """What failed trials had reported is no bar for the first one that may succeed."""
    return all(
        other.state in (TrialState.FAIL, TrialState.WAITING) or other.number == trial.number
        for other in every_trial(study)
    )


def is_rung(n_reports: int) -> bool:
    """4, 6, 8, 12, 16, 24, 32, ... reports: often enough to save, rare enough to cost little."""
    if n_reports < _FIRST_RUNG:
        return False
    power = 1 << (n_reports.bit_length() - 1)
    return n_reports in (power, power + power // 2)


def in_rung_floor(study: Study, trial: FrozenTrial) -> bool:
    """Whether the trial stands in the top third of all that have reported as often."""
    if not trial.intermediate_values:
        return False
    sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
    own = sign * reports(trial)[-1]
    peers = [sign * value for value in values_of_peers(every_trial(study), trial)]
    better = sum(value > own for value in peers)
    return better < max(int((len(peers) + 1) * RUNG_FLOOR), 1)


def is_halving_rung(n_reports: int) -> bool:
    """1, 2, 4, 8, 16, ... reports, where successive halving with η = 2 compares."""
    return n_reports > 0 and n_reports & (n_reports - 1) == 0
