"""The pruner: a predictor that must earn its say, and successive halving until then.

Beside an `AeLLESampler`, whose candidates it shares, successive halving only proposes: a trial is
stopped if the best of those is expected to end as well (`optuna_aelle.decisions.rivalry`).

Alone, each trial may be stopped in three ways.

1. By ``wrapped_pruner``, successive halving by default.
2. *Before training*, from its hyperparameters and the spectrum of the untrained network, if it is
   unlikely to come out in the top fifth of the study.
3. *While training*, at a few moments, if it is unlikely to beat the best trial, and does not stand
   in the top third of all trials at this moment (the rung floor).

The predictor speaks only where its leave-one-out predictions of this study's own trials rank them
better than chance and, during training, better than the value just reported ranks them. Its word
is a function of what the storage holds, so parallel workers and resumed studies agree. Where it is
silent, the study says why (`optuna_aelle.decisions.speech`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from optuna.pruners import BasePruner
from optuna.pruners import SuccessiveHalvingPruner
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle._warnings import warn_once
from optuna_aelle.decisions.halving import Rung
from optuna_aelle.decisions.halving import next_rung
from optuna_aelle.decisions.moments import in_rung_floor
from optuna_aelle.decisions.moments import is_rung
from optuna_aelle.decisions.moments import only_failures_before
from optuna_aelle.decisions.noise import is_a_tie
from optuna_aelle.decisions.reservoir import has_candidates
from optuna_aelle.decisions.resumption import is_asked
from optuna_aelle.decisions.resumption import is_no_moment
from optuna_aelle.decisions.rivalry import Rivalry
from optuna_aelle.decisions.rivalry import judge
from optuna_aelle.decisions.speech import SpeechRecord
from optuna_aelle.decisions.speech import warn_of_missing_spectra
from optuna_aelle.decisions.verdict import AELLE
from optuna_aelle.decisions.verdict import DECISION_KEY
from optuna_aelle.decisions.verdict import Verdict
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.decisions.verdict import encode_verdict
from optuna_aelle.decisions.verdict import verdict_of_pruner
from optuna_aelle.decisions.wrapping import reads_of
from optuna_aelle.decisions.wrapping import reduction_factor_of
from optuna_aelle.prediction.cache import fitted_predictor
from optuna_aelle.prediction.cache import lessons_of
from optuna_aelle.prediction.curves import reports
from optuna_aelle.prediction.fitted import MIN_LESSONS
from optuna_aelle.prediction.forecast import Feature
from optuna_aelle.prediction.forecast import Forecast
from optuna_aelle.prediction.forecast import encode_forecast
from optuna_aelle.prediction.predictor import FEATURES
from optuna_aelle.prediction.predictor import PerformancePredictor
from optuna_aelle.prediction.spectra import SpectrumRegressor
from optuna_aelle.trials.attributes import PREDICTED_FINAL_KEY
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.attributes import encode_fit_seconds
from optuna_aelle.trials.attributes import fit_seconds
from optuna_aelle.trials.continuation import inherited_step
from optuna_aelle.trials.continuation import is_trained_to_its_end
from optuna_aelle.trials.storage import at_one_moment
from optuna_aelle.trials.storage import stored_trial
from optuna_aelle.trials.storage import write_system_attributes
from optuna_aelle.trials.storage import write_user_attributes

# Before training there is no curve to correct a mistake: ask for the top fifth, not for the best.
_SCREENING_SHARE = 0.2
# Two lessons more than a fit needs: leave-one-out predictions are to say something.
_LEAST_LESSONS = MIN_LESSONS + 2
# What took less than this, in seconds, was no fit.
_LEAST_CHARGE = 0.005


class AeLLEPruner(BasePruner):
    """Prune trials that their spectrum, hyperparameters and curve say will not make it.

    Report spectra with `report_network` or `report_spectrum` before ``trial.report``; call
    ``trial.should_prune()`` once before training, too, if there is a spectrum at step −1. Without
    any spectra the pruner works from curve and hyperparameters alone. Every prune leaves its
    verdict on the trial, in words as ``aelle:decision``, and every prediction its forecast; the
    study says in ``aelle:predictor`` where the predictor speaks and why it is silent elsewhere.

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

    Attributes:
        asks_before_training: Whether it decides before the first report, too.

    Raises:
        ValueError: An argument is out of range. Also from `prune`, in a multi-objective study.

    Example:
        >>> study = optuna.create_study(pruner=AeLLEPruner())
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
        if not 0.0 <= risk <= 0.5:
            raise ValueError(f"risk must be in [0, 0.5], but got {risk}.")
        counts = {"n_warmup_steps": n_warmup_steps, "calibration_interval": calibration_interval}
        for name, count in counts.items():
            if count < 0:
                raise ValueError(f"{name} must be nonnegative, but got {count}.")
        PerformancePredictor(features)  # checks them
        self._wrapped_pruner = wrapped_pruner
        self._n_startup_trials = n_startup_trials
        self._n_warmup_steps = n_warmup_steps
        self._risk = risk
        self._calibration_interval = calibration_interval
        self._features = tuple(features)
        self._spectrum_regressor = spectrum_regressor
        self._speech = SpeechRecord()

    @property
    def reads(self) -> frozenset[str]:
        """What `replay` must give and charge this pruner for besides reported values."""
        own = frozenset({"spectra"} if self._reads_spectra else ())
        return own if self._wrapped_pruner is None else own | reads_of(self._wrapped_pruner)

    @property
    def asks_before_training(self) -> bool:
        return self._n_warmup_steps == 0

    @property
    def _reads_spectra(self) -> bool:
        return "spectrum" in self._features

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to stop ``trial``; called by ``trial.should_prune()``."""
        if len(study.directions) > 1:
            raise ValueError(
                "AeLLEPruner expects a study with one objective, but this is a multi-objective "
                f"study with {len(study.directions)} directions. Call "
                "optuna_aelle.should_prune(study, trial, values, step) in the objective instead."
            )
        if self._wrapped_pruner is None:
            if has_candidates(study) and is_no_moment(study, trial):
                return False
            # Somebody else's pruner may write past what was read.
            study = at_one_moment(study)
        # A live trial does not see what a pruner has written past it.
        stored = self._stored(study, trial)
        if stored.number == trial.number and stored.last_step == trial.last_step:
            # Of the other one every attribute is read from the storage again.
            trial = stored
        if inherited_step(stored) == stored.last_step is not None:
            # It has just been decided that it goes on.
            return False
        known = decode_verdict(stored)
        if known is not None and known.step == _step(trial):
            return True
        if known is None and stored.user_attrs.get(DECISION_KEY) is not None:
            # Nobody should read why a failed attempt was pruned on the retry that inherited it, or
            # what was expected of it.
            self._write(study, trial, user={DECISION_KEY: None, PREDICTED_FINAL_KEY: None})
        # The wrapped pruner sees every trial, whoever decides: its rungs must not have gaps.
        halved, rung = self._halved(study, trial)
        verdict: Verdict | None = None
        beside = self._wrapped_pruner is None and has_candidates(study)
        asked = beside and is_asked(study, stored, halved)
        rivalry = self._rivalry(study, trial, stored) if asked else None
        if rivalry is not None:
            verdict = rivalry.verdict
        elif halved and beside == asked and not self._is_a_tie(study, trial):
            verdict = self._verdict_of_wrapped(study, trial) if rung is None else rung.verdict()
        elif not beside:
            verdict = self._verdict_of_forecast(study, trial, stored)
        if verdict is None or self._is_calibration(trial) or self._must_keep(study, stored):
            return False
        self._write(
            study,
            trial,
            system=encode_verdict(trial, verdict),
            user={DECISION_KEY: verdict.sentence()},
        )
        return True

    def _rivalry(self, study: Study, trial: FrozenTrial, stored: FrozenTrial) -> Rivalry | None:
        """What the candidates of the study's sampler say; None where it has none."""
        started = time.perf_counter()
        try:
            rivalry = judge(study, trial)
        except Exception as error:  # an overnight study must go on, whatever is wrong here
            warn_once(
                "rivalry failed",
                f"Candidates could not be compared with trial {trial.number} "
                f"({type(error).__name__}: {error}); {self._wrapped_name} decides alone.",
                error,
            )
            return None
        if rivalry is not None:
            seconds = fit_seconds(stored) + time.perf_counter() - started
            self._write(
                study,
                trial,
                system=encode_forecast(trial, rivalry.forecast)
                | encode_fit_seconds(trial, seconds),
                user={PREDICTED_FINAL_KEY: rivalry.forecast.value},
            )
        return rivalry

    @property
    def _wrapped_name(self) -> str:
        return type(self._wrapped_pruner or SuccessiveHalvingPruner()).__name__

    def _halved(self, study: Study, trial: FrozenTrial) -> tuple[bool, Rung | None]:
        """Whether the wrapped pruner would stop it; of the default one, at which rung."""
        try:
            if self._wrapped_pruner is not None:
                return self._wrapped_pruner.prune(study, trial), None
            rung = next_rung(study, trial)
            return rung is not None and not rung.goes_on, rung
        except Exception as error:  # an overnight study must go on, whatever is wrong there
            warn_once(
                "wrapped pruner failed",
                f"{self._wrapped_name} failed on trial {trial.number} "
                f"({type(error).__name__}: {error}) and abstains.",
                error,
            )
            return False, None

    def _is_a_tie(self, study: Study, trial: FrozenTrial) -> bool:
        try:
            return self._wrapped_pruner is None and is_a_tie(study, trial)
        except Exception:  # a storage hiccup must not undo a decision
            return False

    def _verdict_of_wrapped(self, study: Study, trial: FrozenTrial) -> Verdict:
        assert self._wrapped_pruner is not None
        factor = reduction_factor_of(self._wrapped_pruner)
        try:
            return verdict_of_pruner(study, trial, self._wrapped_name, factor)
        except Exception:  # a storage hiccup must not undo a decision
            return Verdict(self._wrapped_name, _step(trial))

    def _must_keep(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether nothing is left to save, only failures came before, or nobody can tell."""
        if is_trained_to_its_end(trial):
            return True
        try:
            return only_failures_before(study, trial)
        except Exception as error:  # a storage hiccup
            warn_once(
                "trials unreadable",
                f"The trials before {trial.number} could not be read ({type(error).__name__}: "
                f"{error}); it is kept.",
                error,
            )
            return True

    def _is_calibration(self, trial: FrozenTrial) -> bool:
        interval = self._calibration_interval
        return interval > 0 and trial.number % interval == 0

    def _verdict_of_forecast(
        self, study: Study, trial: FrozenTrial, stored: FrozenTrial
    ) -> Verdict | None:
        """Why the predictor would prune, None where it would not or abstains."""
        started = time.perf_counter()
        try:
            forecast = self._forecast(study, trial)
            # Looking whether to ask is free; a fit that led to nothing is charged, too.
            seconds = time.perf_counter() - started
            charge = encode_fit_seconds(trial, fit_seconds(stored) + seconds)
            if forecast is None:
                if seconds > _LEAST_CHARGE:
                    self._write(study, trial, system=charge)
                return None
            stop = forecast.chance < self._risk and not in_rung_floor(study, trial)
        except Exception as error:  # an overnight study must go on, whatever is wrong here
            warn_once(
                "prediction failed",
                f"The predictor failed on trial {trial.number} ({type(error).__name__}: {error}); "
                f"{self._wrapped_name} decides alone.",
                error,
            )
            return None
        self._write(
            study,
            trial,
            system=encode_forecast(trial, forecast) | charge,
            user={PREDICTED_FINAL_KEY: forecast.value},
        )
        if not stop:
            return None
        value = reports(trial)[-1] if trial.intermediate_values else None
        return Verdict(
            AELLE, forecast.step, value, forecast.bar_value, risk=self._risk, forecast=forecast
        )

    def _forecast(self, study: Study, trial: FrozenTrial) -> Forecast | None:
        """The predictor's word, None where it abstains; the study says why."""
        if len(trial.intermediate_values) == 1 and self._reads_spectra:
            # Early, and also where trials report too seldom to be forecast.
            ended = lessons_of(study)
            if len(ended) >= self._n_startup_trials:
                warn_of_missing_spectra(study, ended)
        if not self._is_moment(trial):
            return None
        step = _step(trial)
        predictor = fitted_predictor(
            study, self._features, self._n_startup_trials, self._spectrum_regressor
        )
        if predictor is None:
            n = len(lessons_of(study))
            # Before anything has ended there may yet be candidates to compare with.
            if n:
                self._speech.waits(study, n, self._n_startup_trials)
            return None
        n_lessons = predictor.n_lessons(step)
        if n_lessons < _LEAST_LESSONS:
            self._speech.lacks_lessons(study, step, n_lessons, _LEAST_LESSONS)
            return None
        skill = predictor.skill(step)
        self._speech.has_skill(study, step, skill)
        if not skill.speaks:
            return None
        return predictor.forecast(
            trial, step, share=_SCREENING_SHARE if step == UNTRAINED_STEP else None
        )

    def _is_moment(self, trial: FrozenTrial) -> bool:
        """Whether the predictor is to be asked now at all; cheap, before anything is fetched."""
        step = trial.last_step
        if step is None:
            untrained = not self._reads_spectra or UNTRAINED_STEP in decode_spectra(trial)
            return self.asks_before_training and untrained
        if step < self._n_warmup_steps or not math.isfinite(trial.intermediate_values[step]):
            return False
        return is_rung(len(trial.intermediate_values))

    def _stored(self, study: Study, trial: FrozenTrial) -> FrozenTrial:
        """The trial with all its attributes, or one without any where it cannot be read."""
        try:
            return stored_trial(study, trial)
        except Exception:  # the storage's other calls will tell
            return create_trial(state=TrialState.RUNNING)

    def _write(
        self,
        study: Study,
        trial: FrozenTrial,
        *,
        system: Mapping[str, Any] | None = None,
        user: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            write_system_attributes(study, trial, system or {})
            write_user_attributes(study, trial, user or {})
        except Exception as error:  # a storage hiccup must not undo a decision
            warn_once(
                "attribute not written",
                f"Trial {trial.number}: the pruner's notes could not be stored "
                f"({type(error).__name__}: {error}); its decision stands.",
                error,
            )


def _step(trial: FrozenTrial) -> int:
    return UNTRAINED_STEP if trial.last_step is None else trial.last_step
