"""The sampler: of many configurations start the one that is expected to end best.

It draws candidates from a base sampler, asks what is expected of them by their parameters,
computes spectra of untrained networks for the most promising, as many as a share of the training
time allows, and remembers those that it does not start (`optuna_aelle.decisions.reservoir`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_aelle._warnings import warn_once
from optuna_aelle.decisions.branches import Branches
from optuna_aelle.decisions.branches import searched_space
from optuna_aelle.decisions.branches import untried_trial
from optuna_aelle.decisions.branches import widened
from optuna_aelle.decisions.drawing import Draw
from optuna_aelle.decisions.drawing import default_sampler
from optuna_aelle.decisions.excerpts import LONG
from optuna_aelle.decisions.promise import promise_of
from optuna_aelle.decisions.random_states import random_states_kept
from optuna_aelle.decisions.reservoir import Candidate
from optuna_aelle.decisions.reservoir import Reservoir
from optuna_aelle.decisions.reservoir import make_reservoir
from optuna_aelle.decisions.reservoir import started_trials
from optuna_aelle.decisions.spending import Clock
from optuna_aelle.decisions.spending import Spending
from optuna_aelle.decisions.wrapping import SteadySampler
from optuna_aelle.decisions.wrapping import compile_spectra
from optuna_aelle.prediction.knobs import check_knobs
from optuna_aelle.prediction.prior import Prior
from optuna_aelle.prediction.prior import as_prior
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import encode_spectrum
from optuna_aelle.trials.storage import at_one_moment
from optuna_aelle.trials.storage import ended_trials
from optuna_aelle.trials.storage import stored_trial
from optuna_aelle.trials.storage import write_system_attributes

FloatArray = npt.NDArray[np.float64]
# Candidates that are new to each trial, once there are enough, and how many are remembered: more
# would make every decision slower and the best of them hardly better. In long studies fewer.
_FRESH_AND_MOST = {False: (2, 256), True: (1, 128)}
# Before anything was trained there is no time to take a share of.
_FIRST_SPECTRA = 4

# Of what spectra are expected to cost, lest one that is dear comes as a surprise.
_MARGIN = 2.0

# The base sampler has its way when so many have started, ever more rarely: chosen networks alone
# cannot tell whether the prior is right here (`optuna_aelle.prediction.trust`), and one that is
# stopped early costs little.
_UNCHOSEN = frozenset({1, 3, 5, 8, 12, 17, 23, 30})

SpectrumFunction = Callable[[dict[str, Any]], Any]


class AeLLESampler(SteadySampler):
    """Wrap a sampler, and of the configurations that it draws suggest the most promising one.

    What is expected of a configuration comes from a prior over other studies and from all trials
    of this one (`optuna_aelle.prediction.process`): its hyperparameters, those that all studies
    share by their common names, and the spectrum of its untrained network. It begins with the
    second trial, or with the first one if the space is given. The trials should carry their
    spectra at step −1 (`report_network` before training).

    With several objectives, once four trials have ended, the candidate is taken that is expected
    to add most to the hypervolume of the Pareto front (`optuna_aelle.decisions.promise`); trials
    in training teach where they report by `optuna_aelle.should_prune`.

    Args:
        spectrum_fn: Builds the untrained network of a configuration and returns its spectrum: a
            `LyapunovSpectrum`, exponents ``(k,)`` or ``(B, k)``, or None where there is none. It
            may be given parameters of other branches of a conditional search space, too; without
            ``space``, those of branches that no trial has taken yet are missing. Use the
            setting with which the trials report theirs, `spectral_fingerprint`. None to go by
            hyperparameters alone.
        base_sampler: Draws the candidates; by default TPE, multivariate and grouped. A sampler
            without relative sampling draws from the space that earlier trials have searched.
        prior: Knowledge of other studies: ``"pretrained"``, the path of a file that `Prior.save`
            wrote, a `Prior`, or None to learn from this study alone.
        space: Name to distribution, of all branches if there are some, so that the first trial is
            chosen, too, and from all of it.
        knobs: Own names of parameters, each to its common one, such as ``{"my_lr":
            "learning_rate"}``.
        n_candidates: Configurations to choose the first trial from; each later one is chosen from
            those that are left and a few more. At least 256 are remembered, in long studies 128.
        spectrum_share: Of the time spent on training in this process, how much candidates' spectra
            may take.
        seed: Of the default base sampler.

    Attributes:
        overhead_seconds: What candidates, their spectra and forecasts have cost in this process.

    Raises:
        TypeError: ``spectrum_fn`` cannot be called, ``space`` has something else than
            distributions, or ``prior`` is of another type.
        ValueError: Another argument is out of range, or the prior's file is damaged.

    Example:
        >>> sampler = AeLLESampler(lambda p: spectral_fingerprint(build(p), probe_inputs))
    """

    def __init__(
        self,
        spectrum_fn: SpectrumFunction | None = None,
        base_sampler: BaseSampler | None = None,
        *,
        prior: Prior | str | os.PathLike[str] | None = "pretrained",
        space: Mapping[str, BaseDistribution] | None = None,
        knobs: Mapping[str, str] | None = None,
        n_candidates: int = 128,
        spectrum_share: float = 0.03,
        seed: int | None = None,
    ) -> None:
        if spectrum_fn is not None and not callable(spectrum_fn):
            raise TypeError(
                f"spectrum_fn must be a function of the parameters, but got {spectrum_fn!r}."
            )
        if n_candidates < 1:
            raise ValueError(f"n_candidates must be at least 1, but got {n_candidates}.")
        if not 0.0 <= spectrum_share <= 1.0:
            raise ValueError(f"spectrum_share must be in [0, 1], but got {spectrum_share}.")
        for name, range_ in (space or {}).items():
            if not isinstance(range_, BaseDistribution):
                raise TypeError(
                    f"space must give a distribution of Optuna for each parameter, such as "
                    f"FloatDistribution(1e-4, 1e-1, log=True), but for {name!r} got {range_!r}."
                )
        super().__init__(base_sampler or default_sampler(seed), seed)
        self._spectrum_fn = spectrum_fn
        self._prior = as_prior(prior)
        self._space = None if space is None else dict(space)
        self._knobs = dict(check_knobs(knobs))
        self._n_candidates = n_candidates
        self._spectrum_share = spectrum_share
        self._begin(None)

    @property
    def reads(self) -> frozenset[str]:
        """What `replay` must give and charge it for: the spectra of the trials, if it uses any."""
        return frozenset() if self._spectrum_fn is None else frozenset({"spectra"})

    @property
    def prior(self) -> Prior:
        """What it knows of other studies."""
        return self._prior

    def around(
        self,
        base: BaseSampler,
        spectrum_fn: SpectrumFunction | None = None,
        prior: Prior | None = None,
        clock: Clock | None = None,
    ) -> AeLLESampler:
        """The same sampler around another one, with what else is given in place of its own.

        Where trainings are recorded ones, ``clock`` tells how long they took.
        """
        other = super().around(base)
        if self._spectrum_fn is not None:
            # Who goes by hyperparameters alone is given no spectra.
            other._spectrum_fn = spectrum_fn or self._spectrum_fn
        other._prior = self._prior if prior is None else prior
        other._begin(clock)
        return other

    def _begin(self, clock: Clock | None) -> None:
        self.overhead_seconds = 0.0
        self._spending = Spending(clock)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        space = super().infer_relative_search_space(study, trial)
        if self._n_candidates == 1:
            return space
        if self._space is not None:
            # The base sampler knows only the branches that have been taken.
            return {**self._space, **space}
        try:
            return space or searched_space(study)
        except Exception as error:  # a storage hiccup
            self._warn(error)
            return space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self._spectrum_fn is not None:
            self._spending.note_trial(trial.number)
        if self._n_candidates == 1 or not search_space or self._is_decided(study, trial):
            return super().sample_relative(study, trial, search_space)
        if self._spectrum_fn is not None:
            compile_spectra()
        started = time.perf_counter()
        try:
            now = at_one_moment(study, asked=True)
            reservoir = make_reservoir(now, self._prior, self._knobs)
            chosen = self._choose(reservoir, now, trial, search_space)
        except Exception as error:  # an overnight study must go on, whatever is wrong here
            self._warn(error)
            return super().sample_relative(study, trial, search_space)
        finally:
            with self._spending.lock:
                self.overhead_seconds += time.perf_counter() - started
        try:
            # Only what the chosen draw wrote is stored, as if it had been drawn alone.
            write_system_attributes(study, trial, chosen.written)
        except Exception as error:  # only parallel workers would have read it
            self._warn(error)
        # It may have been drawn for another thread, whose trial has more parameters.
        return {name: value for name, value in chosen.params.items() if name in search_space}

    def _is_decided(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether it was enqueued."""
        try:
            stored = stored_trial(at_one_moment(study, asked=True), trial)
            return "fixed_params" in stored.system_attrs
        except Exception:  # the storage's other calls will tell
            return False

    def _warn(self, error: Exception) -> None:
        warn_once(
            "sampler",
            f"Candidates cannot be ranked ({type(error).__name__}: {error}); "
            f"{type(self._base).__name__} draws alone.",
            error,
        )

    def _choose(
        self,
        reservoir: Reservoir,
        study: Study,
        trial: FrozenTrial,
        space: dict[str, BaseDistribution],
    ) -> Candidate:
        """Draw more candidates, and take the one that is expected to end best."""
        trials = started_trials(study)
        with reservoir.lock:
            self._draw(reservoir, study, trial, space, trials)
            if len(trials) in _UNCHOSEN:
                return reservoir.take(len(reservoir.candidates) - 1)
            before = [*reservoir.candidates]
            order, promise = before, None
            # Where all are asked for their spectra, their order does not matter.
            if not self._may_ask_for_all(reservoir, study):
                promise = promise_of(study, reservoir, trials)
                if promise is None:
                    return reservoir.take(len(before) - 1)
                order = [before[i] for i in np.argsort(-promise[0]).tolist()]
        # Other threads do not wait for these.
        told = self._ask_for_spectra(order, study, trial.number)
        with reservoir.lock:
            if not reservoir.candidates:
                self._draw(reservoir, study, trial, space, trials)
            if promise is None or told or before != reservoir.candidates:
                promise = promise_of(study, reservoir, trials)
            last = len(reservoir.candidates) - 1
            return reservoir.take(last if promise is None else int(np.argmax(promise[1])))

    def _draw(
        self,
        reservoir: Reservoir,
        study: Study,
        trial: FrozenTrial,
        space: dict[str, BaseDistribution],
        trials: Sequence[FrozenTrial],
    ) -> None:
        """Fill the reservoir, or bring some fresh ones: the base sampler may have learned."""
        ran = [t for t in trials if t.number != trial.number and t.params]
        branches = Branches(ran) if ran else None
        # Given parameters that no trial has had, a sampler would find none to learn from.
        seen = space
        if self._space is not None:
            seen = self._base.infer_relative_search_space(study, trial) or space
        space = widened(space, ran)
        # What the base sampler learned of good values says nothing of a range that is new.
        new = reservoir.keep_within(space)
        long = len(ended_trials(study)) > LONG
        n_fresh, n_most = _FRESH_AND_MOST[long]
        n_most = max(n_most, self._n_candidates)
        n_wanted = n_fresh if reservoir.candidates and not new else self._n_candidates
        known = reservoir.keys(ran)
        for _ in range(n_wanted):
            draw = Draw(self._base, study, trial, space, seen)
            for name in sorted(new & draw.params.keys()):
                value = self._random.sample_independent(study, trial, name, space[name])
                draw.params[name] = value
            trial_of = untried_trial(draw.params, space, branches)
            candidate = Candidate(draw.params, trial_of, draw.written)
            # In a small space, draws are repeated: nobody trains one configuration twice.
            if candidate.key not in known or not reservoir.candidates:
                known.add(candidate.key)
                reservoir.add(candidate, n_most)

    def _may_ask_for_all(self, reservoir: Reservoir, study: Study) -> bool:
        """Whether spectra of all that have none surely cost little enough."""
        # Where trainings are recorded ones nobody knows beforehand.
        n = self._spending.n_spectra
        if self._spending.clock is not None or n < _FIRST_SPECTRA:
            return False
        missing = sum(not candidate.asked for candidate in reservoir.candidates)
        trained, spent = self._spending.seconds(study)
        expected = missing * spent / n
        return spent + _MARGIN * expected < self._spectrum_share * trained

    def _ask_for_spectra(
        self,
        candidates: Sequence[Candidate],
        study: Study,
        number: int,
    ) -> bool:
        """Compute spectra of the first ones as far as they may cost; whether there are any."""
        if self._spectrum_fn is None:
            return False
        spending = self._spending
        trained, spent = spending.seconds(study)
        told = refused = 0
        for candidate in candidates:
            if candidate.asked:
                continue
            dear = spent >= self._spectrum_share * trained
            if dear and spending.n_spectra >= _FIRST_SPECTRA:
                break
            if not candidate.claim():
                continue
            started = time.perf_counter()
            spectrum = self._spectrum(dict(candidate.params), number)
            spending.note_spectrum(time.perf_counter() - started)
            spent = spending.seconds()[1]
            if spectrum:
                # In place of the ones that another thread may be reading.
                candidate.trial.system_attrs = {**candidate.trial.system_attrs, **spectrum}
            told += bool(spectrum)
            refused += spectrum is None
        if refused and spending.n_spectra == refused:
            warn_once(
                "spectrum_fn returned None",
                f"spectrum_fn returned None for all {refused} candidates of trial {number}: they "
                "are ranked by hyperparameters alone. Return what "
                "spectral_fingerprint(network, probe_inputs) gives.",
            )
        return told > 0

    def _spectrum(self, params: dict[str, Any], number: int) -> dict[str, Any] | None:
        """The attribute of a candidate's spectrum; None where there is none, empty if it fails."""
        assert self._spectrum_fn is not None
        try:
            with random_states_kept():
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
                f"{error}); it is ranked by its hyperparameters. If a parameter is missing, of a "
                "branch that no trial has taken: AeLLESampler(space=...) draws from all of them.",
                error,
            )
            return {}
