"""The sampler: draw several configurations, train the one whose untrained network looks best."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import cast

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle._warnings import warn_once
from optuna_aelle.decisions.pruner import PredictorCache
from optuna_aelle.decisions.wrapping import WrappingSampler
from optuna_aelle.prediction.predictor import MIN_LESSONS
from optuna_aelle.prediction.predictor import PerformancePredictor
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import encode_spectrum

SpectrumFunction = Callable[[dict[str, Any]], Any]


class AeLLESampler(WrappingSampler):
    """Wrap a sampler, and of the configurations that it draws suggest the most promising one.

    A configuration is ranked by its predicted final value, from its hyperparameters and the
    spectrum of its untrained network, by a predictor that learns from this study's ended trials.
    Until these predictions have shown skill out of sample, the base sampler draws alone.

    The trials must carry their spectra at step −1 (`report_network` before training).

    Args:
        spectrum_fn: Builds the untrained network of a configuration and returns its spectrum: a
            `LyapunovSpectrum`, exponents ``(k,)`` or ``(B, k)``, or None where there is none. It
            may be given parameters of other branches of a conditional search space, too. Use
            the setting with which the trials report theirs, `spectral_fingerprint`.
        base_sampler: Draws the candidates; by default TPE, multivariate and grouped. A sampler
            without relative sampling draws from the space that earlier trials have searched.
        n_candidates: Configurations drawn for each trial.
        n_startup_trials: Ended trials needed before candidates are ranked.
        seed: Of the default base sampler.

    Attributes:
        overhead_seconds: What further candidates, spectra and fits have cost in this process.
        reads: What `replay` must give and charge it for: the spectra of the trials.
    """

    reads = frozenset({"spectra"})

    def __init__(
        self,
        spectrum_fn: SpectrumFunction,
        base_sampler: BaseSampler | None = None,
        *,
        n_candidates: int = 4,
        n_startup_trials: int = 12,
        seed: int | None = None,
    ) -> None:
        if not callable(spectrum_fn):
            raise TypeError(
                f"spectrum_fn must be a function of the parameters, but got {spectrum_fn!r}."
            )
        if n_candidates < 1:
            raise ValueError(f"n_candidates must be at least 1, but got {n_candidates}.")
        if n_startup_trials < MIN_LESSONS:
            raise ValueError(
                f"n_startup_trials must be at least {MIN_LESSONS}, but got {n_startup_trials}."
            )
        self._spectrum_fn = spectrum_fn
        super().__init__(base_sampler or _default_sampler(seed))
        self._n_candidates = n_candidates
        self._cache = PredictorCache(("params", "spectrum"), n_startup_trials)
        self.overhead_seconds = 0.0

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        space = self._base.infer_relative_search_space(study, trial)
        if len(study.directions) > 1:
            warn_once(
                "multi-objective sampler",
                "AeLLESampler ranks candidates by one objective; in this multi-objective study "
                f"{type(self._base).__name__} draws alone.",
            )
            return space
        if space or self._predictor(study) is None:
            return space
        try:
            return _searched_space(study)
        except Exception as error:  # a storage hiccup
            self._warn(error)
            return space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        predictor = None
        if len(study.directions) == 1 and self._n_candidates > 1 and search_space:
            predictor = self._predictor(study)
        if predictor is None:
            return self._base.sample_relative(study, trial, search_space)
        try:
            chosen = _Draw(self._base, study, trial, search_space)
        except Exception as error:  # a base sampler that wants the study itself
            self._warn(error)
            return self._base.sample_relative(study, trial, search_space)
        # The base sampler alone would have cost the first draw, too.
        started = time.perf_counter()
        try:
            draws = [chosen]
            draws += [
                _Draw(self._base, study, trial, search_space) for _ in range(1, self._n_candidates)
            ]
            chosen = draws[self._best(predictor, draws, search_space, trial.number)]
        except Exception as error:  # an overnight study must go on, with the first draw
            self._warn(error)
        try:
            # Only what the chosen draw wrote is stored, as if it had been drawn alone.
            for key, value in chosen.written.items():
                study._storage.set_trial_system_attr(trial._trial_id, key, value)
        except Exception as error:  # only parallel workers would have read it
            self._warn(error)
        self.overhead_seconds += time.perf_counter() - started
        return chosen.params

    def _predictor(self, study: Study) -> PerformancePredictor | None:
        """The study's predictor, if it has shown skill before training."""
        started = time.perf_counter()
        try:
            predictor = self._cache.get(study)
            if predictor is None or predictor.n_lessons(UNTRAINED_STEP) < MIN_LESSONS + 2:
                return None
            skilled = predictor.skill(UNTRAINED_STEP).lower_bound > 0.0
            return predictor if skilled else None
        except Exception as error:  # an overnight study must go on, whatever is wrong here
            self._warn(error)
            return None
        finally:
            self.overhead_seconds += time.perf_counter() - started

    def _warn(self, error: Exception) -> None:
        warn_once(
            f"sampler:{type(error).__name__}",
            f"Candidates cannot be ranked ({type(error).__name__}: {error}); "
            f"{type(self._base).__name__} draws alone.",
        )

    def _best(
        self,
        predictor: PerformancePredictor,
        draws: Sequence[_Draw],
        space: Mapping[str, BaseDistribution],
        number: int,
    ) -> int:
        """The number of the draw with the best predicted final value, 0 if none has a spectrum."""
        try:
            spectra = [self._spectrum_fn(dict(draw.params)) for draw in draws]
            if all(spectrum is None for spectrum in spectra):
                return 0
            candidates = [
                _candidate(draw.params, space, spectrum)
                for draw, spectrum in zip(draws, spectra, strict=True)
            ]
            means, _ = predictor.predict_standings(candidates, UNTRAINED_STEP)
            return int(np.argmax(means))
        except Exception as error:  # the user's function may fail on a rare configuration
            warn_once(
                f"spectrum_fn:{type(error).__name__}",
                f"Candidates of trial {number} could not be ranked ({type(error).__name__}: "
                f"{error}); the first one is taken.",
            )
            return 0


def _default_sampler(seed: int | None) -> BaseSampler:
    # Nobody is to be warned of experimental arguments that they have not given.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Without constant_liar, drawing leaves nothing in the storage.
        return TPESampler(multivariate=True, group=True, constant_liar=False, seed=seed)


class _Draw:
    """One candidate, and what drawing it would have written on the trial."""

    def __init__(
        self,
        base: BaseSampler,
        study: Study,
        trial: FrozenTrial,
        space: dict[str, BaseDistribution],
    ) -> None:
        storage = _DeferredWrites(study._storage)
        watched = cast(Study, _WatchedStudy(study, storage))
        self.params = base.sample_relative(watched, trial, space)
        if not self.params:
            self.params = {
                name: base.sample_independent(watched, trial, name, distribution)
                for name, distribution in sorted(space.items())
            }
        self.written = storage.written


class _WatchedStudy:
    """A study whose writes go elsewhere; what Hyperband hands to samplers cannot be copied."""

    def __init__(self, study: Study, storage: _DeferredWrites) -> None:
        self._watched = study
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watched, name)


class _DeferredWrites:
    """A storage that keeps a trial's new system attributes to itself."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.written: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.written[key] = value


def _candidate(
    params: Mapping[str, Any], space: Mapping[str, BaseDistribution], spectrum: Any
) -> FrozenTrial:
    exponents = getattr(spectrum, "exponents", spectrum)
    return create_trial(
        state=TrialState.RUNNING,
        params=dict(params),
        distributions={name: space[name] for name in params},
        user_attrs={} if spectrum is None else encode_spectrum(exponents, UNTRAINED_STEP),
    )


def _searched_space(study: Study) -> dict[str, BaseDistribution]:
    """The last distribution of each parameter, without those whose kind has changed."""
    space: dict[str, BaseDistribution] = {}
    changed: set[str] = set()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        for name, distribution in trial.distributions.items():
            known = space.get(name, distribution)
            # Categorical choices cannot change within a study; kinds of numbers can.
            if type(known) is not type(distribution):
                changed.add(name)
            space[name] = distribution
    return {
        name: distribution
        for name, distribution in sorted(space.items())
        if name not in changed and not distribution.single()
    }
