"""The pruner: a predictor that must earn its say, and successive halving until then.

Each trial may be stopped in three ways.

1. By ``wrapped_pruner``, successive halving by default.
2. *Before training*, from its hyperparameters and the spectrum of the untrained network, if it is
   unlikely to come out in the top fifth of the study.
3. *While training*, at a few moments, if it is unlikely to beat the best trial, and does not stand
   in the top third of all trials at this moment (the rung floor).

The predictor speaks only where its leave-one-out predictions of this study's own trials rank them
better than chance and, during training, better than the value just reported ranks them. Its word
is a function of what the storage holds, so parallel workers and resumed studies agree.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.pruners import BasePruner
from optuna.pruners import SuccessiveHalvingPruner
from optuna.study import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial
from scipy.stats import norm

from optuna_aelle._warnings import warn_once
from optuna_aelle.prediction.features import is_lesson
from optuna_aelle.prediction.features import reports
from optuna_aelle.prediction.predictor import FEATURES
from optuna_aelle.prediction.predictor import MIN_LESSONS
from optuna_aelle.prediction.predictor import Feature
from optuna_aelle.prediction.predictor import PerformancePredictor
from optuna_aelle.prediction.predictor import SpectrumRegressor
from optuna_aelle.trials.attributes import FIT_SECONDS_KEY
from optuna_aelle.trials.attributes import PREDICTED_FINAL_KEY
from optuna_aelle.trials.attributes import PRUNE_REASON_KEY
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import Prediction
from optuna_aelle.trials.attributes import decode_reason
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.attributes import encode_prediction
from optuna_aelle.trials.attributes import encode_reason
from optuna_aelle.trials.attributes import fit_seconds

# Before training there is no curve to correct a mistake: ask for the top fifth, not for the best.
SCREENING_SHARE = 0.2
_RUNG_FLOOR = 1.0 / 3.0
_FIRST_RUNG = 4
# Refits wait until there is half as much again to learn from: their cost stays in proportion.
_REFIT_GROWTH = 1.5
# What took less than this, in seconds, was no fit.
_LEAST_CHARGE = 0.005


@dataclass(frozen=True)
class _Verdict:
    prune: bool
    prediction: Prediction
    reason: str


class PredictorCache:
    """Predictors by what they were fitted to: refits are caches, the storage is the truth."""

    def __init__(
        self,
        features: Sequence[Feature],
        n_startup_trials: int,
        spectrum_regressor: Callable[[int], SpectrumRegressor] | None = None,
    ) -> None:
        self._features = tuple(features)
        self._n_startup_trials = n_startup_trials
        self._spectrum_regressor = spectrum_regressor
        self._lock = threading.Lock()
        self._latest: tuple[object, PerformancePredictor | None] | None = None

    def get(self, study: Study) -> PerformancePredictor | None:
        """The predictor that this study's storage calls for, None while nothing can be learned."""
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        lessons = sorted(filter(is_lesson, ended), key=_completion)
        lessons = lessons[: _scheduled(len(lessons), self._n_startup_trials)]
        key = (study.study_name, study.direction, tuple(map(_completion, lessons)))
        with self._lock:
            if self._latest is None or self._latest[0] != key:
                predictor = PerformancePredictor(
                    self._features,
                    direction=study.direction.name.lower(),  # type: ignore[arg-type]
                    spectrum_regressor=self._spectrum_regressor,
                )
                try:
                    self._latest = (key, predictor.fit(lessons))
                except ValueError:  # too few lessons, or all alike
                    self._latest = (key, None)
            return self._latest[1]

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_lock", "_latest")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock, self._latest = threading.Lock(), None


class AeLLEPruner(BasePruner):
    """Prune trials that their spectrum, hyperparameters and curve say will not make it.

    Report spectra with `report_network` or `report_spectrum` before ``trial.report``; call
    ``trial.should_prune()`` once before training, too, if there is a spectrum at step −1. Without
    any spectra the pruner works from curve and hyperparameters alone. Every prune leaves its
    reason on the trial (``aelle:prune_reason``), every prediction its mean, std and bar.

    Args:
        wrapped_pruner: Prunes beside the predictor, and alone wherever that abstains; successive
            halving by default.
        n_startup_trials: Ended trials that the predictor needs before it may speak.
        n_warmup_steps: No prediction prunes a trial before this step.
        risk: The predictor prunes where a trial's chance to make it is below this.
        calibration_interval: Every so many trials, the first included, one is never pruned by
            anything, so that predictions can be held against undisturbed final values; 0 for none.
        features: Groups of features of the predictor.
        spectrum_regressor: As in `PerformancePredictor`.

    Raises:
        ValueError: An argument is out of range. Also from `prune`, in a multi-objective study.
    """

    def __init__(
        self,
        wrapped_pruner: BasePruner | None = None,
        *,
        n_startup_trials: int = 12,
        n_warmup_steps: int = 0,
        risk: float = 0.05,
        calibration_interval: int = 0,
        features: Sequence[Feature] = FEATURES,
        spectrum_regressor: Callable[[int], SpectrumRegressor] | None = None,
    ) -> None:
        if wrapped_pruner is not None and not isinstance(wrapped_pruner, BasePruner):
            raise TypeError(
                f"wrapped_pruner must be an optuna pruner or None, but got {wrapped_pruner!r}."
            )
        if n_startup_trials < MIN_LESSONS:
            raise ValueError(
                f"n_startup_trials must be at least {MIN_LESSONS}, but got {n_startup_trials}."
            )
        if n_warmup_steps < 0:
            raise ValueError(f"n_warmup_steps must be nonnegative, but got {n_warmup_steps}.")
        if not 0.0 <= risk <= 0.5:
            raise ValueError(f"risk must be in [0, 0.5], but got {risk}.")
        if calibration_interval < 0:
            raise ValueError(
                f"calibration_interval must be nonnegative, but got {calibration_interval}."
            )
        PerformancePredictor(features)  # checks them
        self._wrapped = wrapped_pruner
        self._n_warmup_steps = n_warmup_steps
        self._risk = risk
        self._calibration_interval = calibration_interval
        self._cache = PredictorCache(features, n_startup_trials, spectrum_regressor)
        self._reads_spectra = "spectrum" in features

    @property
    def reads(self) -> frozenset[str]:
        """What `replay` must give and charge this pruner for besides reported values."""
        own = frozenset({"spectra"} if self._reads_spectra else ())
        return own | frozenset(getattr(self._wrapped, "reads", ()))

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to stop ``trial``; called by ``trial.should_prune()``."""
        if len(study.directions) > 1:
            raise ValueError(
                "AeLLEPruner expects a study with one objective, but this is a multi-objective "
                f"study with {len(study.directions)} directions. Prune by one of them, in a study "
                "of its own."
            )
        # A live trial does not see what a pruner has written past it.
        stored = self._stored(study, trial)
        known = decode_reason(stored)
        if known is not None and known.startswith(f"{_moment(trial)}:"):
            return True
        if known is None and stored.user_attrs.get(PRUNE_REASON_KEY) is not None:
            # Nobody should read why a failed attempt was pruned on the retry that inherited it.
            self._write(study, trial, {PRUNE_REASON_KEY: None})
        reason: str | None
        # The wrapped pruner sees every trial, whoever decides: its rungs must not have gaps.
        if self._wrapped_prunes(study, trial):
            reason = f"{_moment(trial)}: {self._wrapped_name}"
        else:
            reason = self._predicted_reason(study, trial, stored)
        if reason is None or self._is_calibration(trial) or self._must_keep(study, trial):
            return False
        self._write(study, trial, encode_reason(stored, reason))
        return True

    @property
    def _wrapped_name(self) -> str:
        return type(self._wrapped or SuccessiveHalvingPruner()).__name__

    def _wrapped_prunes(self, study: Study, trial: FrozenTrial) -> bool:
        try:
            wrapped = self._wrapped
            if wrapped is None:
                # Its rungs count steps; the first is to be one report, however steps are spaced.
                spacing = report_spacing([*study.get_trials(deepcopy=False), trial])
                wrapped = SuccessiveHalvingPruner(min_resource=spacing, reduction_factor=2)
            return wrapped.prune(study, trial)
        except Exception as error:  # an overnight study must go on, whatever is wrong there
            warn_once(
                f"wrapped pruner failed:{type(error).__name__}",
                f"{self._wrapped_name} failed on trial {trial.number} "
                f"({type(error).__name__}: {error}) and abstains.",
            )
            return False

    def _must_keep(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether nothing but failures came before, or nobody can tell."""
        try:
            return _only_failures_before(study, trial)
        except Exception as error:  # a storage hiccup
            warn_once(
                f"trials unreadable:{type(error).__name__}",
                f"The trials before {trial.number} could not be read ({type(error).__name__}: "
                f"{error}); it is kept.",
            )
            return True

    def _is_calibration(self, trial: FrozenTrial) -> bool:
        interval = self._calibration_interval
        return interval > 0 and trial.number % interval == 0

    def _predicted_reason(
        self, study: Study, trial: FrozenTrial, stored: FrozenTrial
    ) -> str | None:
        """Why the predictor would prune, None where it would not or abstains."""
        started = time.perf_counter()
        try:
            verdict = self._judge(study, trial)
            spent = fit_seconds(stored)
            if verdict is None:
                # A fit that led to nothing is charged, too; looking whether to ask is free.
                seconds = time.perf_counter() - started
                if seconds > _LEAST_CHARGE:
                    self._write(study, trial, {FIT_SECONDS_KEY: spent + seconds})
                return None
        except Exception as error:  # an overnight study must go on, whatever is wrong here
            warn_once(
                f"prediction failed:{type(error).__name__}",
                f"The predictor failed on trial {trial.number} ({type(error).__name__}: {error}); "
                f"{self._wrapped_name} decides alone.",
            )
            return None
        step = UNTRAINED_STEP if trial.last_step is None else trial.last_step
        attributes = encode_prediction(verdict.prediction, step, trial=trial.number)
        attributes[PREDICTED_FINAL_KEY] = verdict.prediction.mean
        seconds = time.perf_counter() - started
        attributes[FIT_SECONDS_KEY] = spent + seconds
        self._write(study, trial, attributes)
        return verdict.reason if verdict.prune else None

    def _judge(self, study: Study, trial: FrozenTrial) -> _Verdict | None:
        """The predictor's word, None where it abstains."""
        if not self._is_moment(trial):
            return None
        step = UNTRAINED_STEP if trial.last_step is None else trial.last_step
        predictor = self._cache.get(study)
        if predictor is None or predictor.n_lessons(step) < MIN_LESSONS + 2:
            return None
        skill = predictor.skill(step)
        if skill.lower_bound <= 0.0 or skill.model < skill.baseline:
            return None
        means, stds = predictor.predict_standings([trial], step)
        mean, std = float(means[0]), float(stds[0])
        if trial.last_step is None:
            bar = predictor.standing_quantile(SCREENING_SHARE)
            bar_value = float(predictor.to_value(bar))
        else:
            bar, bar_value = predictor.best_standing, predictor.best_value
        chance = float(norm.sf((bar - mean) / std))
        values, value_stds = predictor.predict([trial], step)
        prediction = Prediction(
            mean=float(values[0]),
            std=float(value_stds[0]),
            bar=bar_value,
            features=predictor.spoken_features(step),
            chance=chance,
        )
        prune = chance < self._risk and not self._in_rung_floor(study, trial)
        reason = (
            f"{_moment(trial)}: predicted final {prediction.mean:.4g} ± {prediction.std:.2g} "
            f"misses the bar {prediction.bar:.4g} (chance {chance:.3f} < {self._risk:g}); "
            f"from {' + '.join(prediction.features) or 'the study mean'}"
        )
        return _Verdict(prune, prediction, reason)

    def _is_moment(self, trial: FrozenTrial) -> bool:
        """Whether the predictor is to be asked now at all; cheap, before anything is fetched."""
        step = trial.last_step
        if step is None:
            untrained = UNTRAINED_STEP in decode_spectra(trial) or not self._reads_spectra
            return self._n_warmup_steps == 0 and untrained
        if step < self._n_warmup_steps or not math.isfinite(trial.intermediate_values[step]):
            return False
        return _is_rung(len(trial.intermediate_values))

    def _in_rung_floor(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial stands in the top third of all that have reported as often."""
        n_reports = len(trial.intermediate_values)
        if n_reports == 0:
            return False
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        own = sign * reports(trial)[-1]
        peers = [
            sign * reports(other)[n_reports - 1]
            for other in study.get_trials(deepcopy=False)
            if len(other.intermediate_values) >= n_reports and other.number != trial.number
        ]
        better = sum(value > own for value in peers)
        return better < max(int((len(peers) + 1) * _RUNG_FLOOR), 1)

    def _stored(self, study: Study, trial: FrozenTrial) -> FrozenTrial:
        """The trial with all its attributes, or one without any where it cannot be read."""
        try:
            return study._storage.get_trial(trial._trial_id)
        except Exception:  # the storage's other calls will tell
            return create_trial(state=TrialState.RUNNING)

    def _write(self, study: Study, trial: FrozenTrial, attributes: dict[str, Any]) -> None:
        try:
            for key, value in attributes.items():
                study._storage.set_trial_user_attr(trial._trial_id, key, value)
        except Exception as error:  # a storage hiccup must not undo a decision
            warn_once(
                f"attribute not written:{type(error).__name__}",
                f"Trial {trial.number}: the pruner's notes could not be stored "
                f"({type(error).__name__}: {error}); its decision stands.",
            )


def report_spacing(trials: Sequence[FrozenTrial]) -> int:
    """Steps from one report to the next, as the first trial with two reports has them; 1 at least.

    Before there is one: the first step that was reported.
    """
    for trial in trials:
        if len(trial.intermediate_values) > 1:
            first, second = sorted(trial.intermediate_values)[:2]
            return second - first
    return max([1, *(min(t.intermediate_values) for t in trials if t.intermediate_values)])


def _moment(trial: FrozenTrial) -> str:
    return "before training" if trial.last_step is None else f"step {trial.last_step}"


def _only_failures_before(study: Study, trial: FrozenTrial) -> bool:
    """What failed trials had reported is no bar for the first one that may succeed."""
    return all(
        other.state == TrialState.FAIL or other.number == trial.number
        for other in study.get_trials(deepcopy=False)
    )


def _completion(trial: FrozenTrial) -> tuple[float, int]:
    """Lessons are learned in the order in which trials ended, the same for every worker."""
    ended = trial.datetime_complete
    return (ended.timestamp() if ended is not None else 0.0), trial.number


def _scheduled(n: int, first: int) -> int:
    """The largest entry up to ``n`` of first, 1.5 first, 1.5² first ...; 0 if there is none."""
    if n < first:
        return 0
    reached = first
    while (following := math.ceil(reached * _REFIT_GROWTH)) <= n:
        reached = following
    return reached


def _is_rung(n_reports: int) -> bool:
    """4, 6, 8, 12, 16, 24, 32, ... reports: often enough to save, rare enough to cost little."""
    if n_reports < _FIRST_RUNG:
        return False
    power = 1 << (n_reports.bit_length() - 1)
    return n_reports in (power, power + power // 2)
