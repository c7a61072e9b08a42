"""The sampler: draw several configurations, train the one whose untrained network looks best."""

from __future__ import annotations

import random
import sys
import threading
import time
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from contextlib import nullcontext
from typing import Any

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
from optuna_aelle.decisions.branches import Branches
from optuna_aelle.decisions.wrapping import WrappingSampler
from optuna_aelle.prediction.cache import fitted_predictor
from optuna_aelle.prediction.fitted import MIN_LESSONS
from optuna_aelle.prediction.fitted import FittedPredictor
from optuna_aelle.prediction.predictor import FEATURES
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.attributes import encode_spectrum
from optuna_aelle.trials.storage import DeferredWrites
from optuna_aelle.trials.storage import every_trial
from optuna_aelle.trials.storage import write_system_attributes

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
            may be given parameters of other branches of a conditional search space, too; the
            ranking leaves those out. Use the setting with which the trials report theirs,
            `spectral_fingerprint`.
        base_sampler: Draws the candidates; by default TPE, multivariate and grouped. A sampler
            without relative sampling draws from the space that earlier trials have searched.
        n_candidates: Configurations drawn for each trial.
        n_startup_trials: Ended trials needed before candidates are ranked.
        seed: Of the default base sampler.

    Attributes:
        overhead_seconds: What further candidates, spectra and fits have cost in this process.
        reads: What `replay` must give and charge it for: the spectra of the trials.

    Raises:
        TypeError: ``spectrum_fn`` cannot be called.
        ValueError: Another argument is out of range.

    Example:
        >>> sampler = AeLLESampler(lambda p: spectral_fingerprint(build(p), probe_inputs))
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
        self._n_startup_trials = n_startup_trials
        self.overhead_seconds = 0.0

    def around(
        self, base: BaseSampler, spectrum_fn: SpectrumFunction | None = None
    ) -> AeLLESampler:
        """The same sampler around another one, with another ``spectrum_fn`` if one is given."""
        other = super().around(base)
        other._spectrum_fn = spectrum_fn or self._spectrum_fn
        other.overhead_seconds = 0.0
        return other

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
            write_system_attributes(study, trial, chosen.written)
        except Exception as error:  # only parallel workers would have read it
            self._warn(error)
        self.overhead_seconds += time.perf_counter() - started
        return chosen.params

    def _predictor(self, study: Study) -> FittedPredictor | None:
        """The study's predictor, if it has shown skill before training."""
        started = time.perf_counter()
        try:
            # All features, as the pruner: of untrained networks there is no curve, so that both
            # share one fit.
            predictor = fitted_predictor(study, FEATURES, self._n_startup_trials)
            if predictor is None or predictor.n_lessons(UNTRAINED_STEP) < MIN_LESSONS + 2:
                return None
            _warn_of_untold(study, predictor)
            return predictor if predictor.skill(UNTRAINED_STEP).speaks else None
        except Exception as error:  # an overnight study must go on, whatever is wrong here
            self._warn(error)
            return None
        finally:
            self.overhead_seconds += time.perf_counter() - started

    def _warn(self, error: Exception) -> None:
        warn_once(
            "sampler",
            f"Candidates cannot be ranked ({type(error).__name__}: {error}); "
            f"{type(self._base).__name__} draws alone.",
            error,
        )

    def _best(
        self,
        predictor: FittedPredictor,
        draws: Sequence[_Draw],
        space: Mapping[str, BaseDistribution],
        number: int,
    ) -> int:
        """The draw with the best predicted final value, 0 if none has a spectrum."""
        branches = Branches(predictor.lessons)
        spectra = [self._spectrum(dict(draw.params), number) for draw in draws]
        candidates = [
            _candidate(draw.params, space, branches, spectrum or {})
            for draw, spectrum in zip(draws, spectra, strict=True)
        ]
        if not any(spectra):
            if all(spectrum is None for spectrum in spectra):
                warn_once(
                    "spectrum_fn returned None",
                    f"spectrum_fn returned None for all {len(draws)} candidates of trial "
                    f"{number}: nothing can be ranked, and {type(self._base).__name__} draws "
                    "alone. Return what spectral_fingerprint(network, probe_inputs) gives.",
                )
            return 0
        means, _ = predictor.predict_standings(candidates, UNTRAINED_STEP)
        return int(np.argmax(means))

    def _spectrum(self, params: dict[str, Any], number: int) -> dict[str, Any] | None:
        """The attribute of a candidate's spectrum; None where the user's function has none.

        Empty where it fails, as it may on a rare configuration.
        """
        try:
            with _random_states_kept():
                spectrum: Any = self._spectrum_fn(params)
            if spectrum is None:
                return None
            return encode_spectrum(
                getattr(spectrum, "exponents", spectrum),
                UNTRAINED_STEP,
                state_size=getattr(spectrum, "state_size", None),
            )
        except Exception as error:
            warn_once(
                "spectrum_fn",
                f"A candidate of trial {number} has no spectrum ({type(error).__name__}: "
                f"{error}); it is ranked by its hyperparameters, and if no other has one either, "
                "the first is taken.",
                error,
            )
            return {}


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Building candidates draws weights, of which the trainings of the study should not notice.

    The states are the process's. In a thread of its own a study trains networks beside this one:
    putting the states back would make those draw the same numbers again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    torch: Any = sys.modules.get("torch")
    forked = nullcontext()
    if torch is not None:
        # Asking for the devices would start CUDA where nobody has used it yet.
        forked = torch.random.fork_rng(None if torch.cuda.is_initialized() else [])
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with forked:
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _warn_of_untold(study: Study, predictor: FittedPredictor) -> None:
    """Warn once where no ended trial has told the spectrum of its untrained network."""
    if any(UNTRAINED_STEP in decode_spectra(trial) for trial in predictor.lessons):
        return
    warn_once(
        f"no untrained spectra:{study.study_name}",
        f"None of the {len(predictor.lessons)} ended trials of '{study.study_name}' has the "
        "spectrum of its untrained network: AeLLESampler ranks candidates by hyperparameters "
        "alone. Call optuna_aelle.report_network(trial, network, probe_inputs, step=-1) before "
        "training.",
    )


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
        watched = DeferredWrites(study)
        self.params = base.sample_relative(watched.study, trial, space)
        if not self.params:
            self.params = {
                name: base.sample_independent(watched.study, trial, name, distribution)
                for name, distribution in sorted(space.items())
            }
        self.written = watched.written


def _candidate(
    params: Mapping[str, Any],
    space: Mapping[str, BaseDistribution],
    branches: Branches,
    spectrum: dict[str, Any],
) -> FrozenTrial:
    """What would be known of a candidate as a trial, with the parameters that it would have."""
    taken = branches.taken(params)
    return create_trial(
        state=TrialState.RUNNING,
        params={name: params[name] for name in taken},
        distributions={name: space[name] for name in taken},
        system_attrs=spectrum,
    )


def _searched_space(study: Study) -> dict[str, BaseDistribution]:
    """The last distribution of each parameter, without those whose kind has changed."""
    space: dict[str, BaseDistribution] = {}
    changed: set[str] = set()
    for trial in every_trial(study, (TrialState.COMPLETE, TrialState.PRUNED)):
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
