"""A sampler and a pruner as an arm of a race: a real study, whose trainings are recorded ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from optuna.trial import Trial
from optuna.trial import TrialState

from optuna_aelle.backtest.pool import FloatArray
from optuna_aelle.backtest.pool import Pool
from optuna_aelle.backtest.pool import Ranking
from optuna_aelle.backtest.pool import in_order
from optuna_aelle.backtest.proposals import PoolSampler
from optuna_aelle.backtest.replay import warn_of_own_task
from optuna_aelle.backtest.streams import suggest
from optuna_aelle.decisions.sampler import AeLLESampler
from optuna_aelle.decisions.wrapping import WrappingSampler
from optuna_aelle.decisions.wrapping import asks_before_training
from optuna_aelle.decisions.wrapping import reads_of
from optuna_aelle.prediction.prior import Prior
from optuna_aelle.trials.attributes import SPECTRUM_PREFIX
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.continuation import Saved
from optuna_aelle.trials.continuation import encode_checkpoints
from optuna_aelle.trials.continuation import origin_of
from optuna_aelle.trials.storage import every_trial
from optuna_aelle.trials.storage import write_system_attributes

Callback = Callable[[optuna.Study, FrozenTrial], None]

# What a sampler or a pruner may ask for besides reported values.
SPECTRA = "spectra"


class Search:
    """Trials of a study, one after the other, each to its end or until it is pruned.

    Args:
        sampler: Any; `PoolSampler` says how it chooses among the configurations of the pool.
        pruner: Any.
        callbacks: As ``study.optimize`` takes them. With one, all trainings are checkpointed, so
            that those which `resume_promising` enqueues go on where they were stopped.
        ranking: In which order configurations start where the sampler is random; that of chance
            by default.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        pruner: BasePruner,
        *callbacks: Callback,
        ranking: Ranking | None = None,
    ) -> None:
        self._sampler = sampler
        self._pruner = pruner
        self._callbacks = callbacks
        self._ranking = ranking

    def __call__(self, pool: Pool, seed: int) -> None:
        """Search until the budget is spent or nothing is left."""
        order = in_order(pool, self._ranking)
        with pool.uncharged():
            proposals, sampler = over_pool(pool, order, self._sampler)
        # Without Optuna's line a trial, which would cost more than the race.
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            with pool.uncharged():
                study = optuna.create_study(
                    study_name=f"{pool.name}-{seed}",
                    direction=pool.direction,
                    sampler=ChosenSampler(sampler, proposals),
                    pruner=self._pruner,
                )
            reads = reads_of(self._pruner) | frozenset(getattr(sampler, "reads", ()))
            # Not what the pool has left: a trial may be pruned before it is trained.
            while proposals.n_left or _is_waiting(study):
                trial = study.ask()
                position = proposals.chosen
                with pool.uncharged():
                    for name, distribution in pool.configurations[position].distributions.items():
                        suggest(trial, name, distribution)
                    self._mark(pool, position, trial)
                value = self._train(pool, position, trial, SPECTRA in reads)
                with pool.uncharged():
                    self._mark(pool, position, trial)
                if value is None:
                    told = study.tell(trial, state=TrialState.PRUNED)
                else:
                    told = study.tell(trial, value)
                for callback in self._callbacks:
                    callback(study, told)
        finally:
            optuna.logging.set_verbosity(verbosity)

    def _train(self, pool: Pool, position: int, trial: Trial, spectra: bool) -> float | None:
        """One trial; its final value, or None where it was pruned."""
        trained = pool.steps(position)
        step = trained[-1] if trained else UNTRAINED_STEP
        # What goes on has the spectra of where it was stopped.
        due = [at for at in pool.spectrum_steps if at > step or not trained] if spectra else []
        while True:
            with pool.uncharged():
                while due and due[0] <= step:
                    at = due.pop(0)
                    payload = pool.payload(position, at)
                    if payload is not None:
                        told = {f"{SPECTRUM_PREFIX}{at}": {**payload, "trial": trial.number}}
                        write_system_attributes(trial.study, trial, told)
            # Of the untrained network most pruners have nothing to say.
            asked = step != UNTRAINED_STEP or self._judges_untrained(pool, spectra)
            if asked and trial.should_prune():
                return None
            if pool.is_over(position):
                known = pool.trial(position)
                # A trial that was pruned when it was recorded ends where its recording does.
                return known.values[0] if known.state == TrialState.COMPLETE else None
            value = pool.train(position)
            with pool.uncharged():
                step = pool.steps(position)[-1]
                trial.report(value, step)

    def _mark(self, pool: Pool, position: int, trial: Trial) -> None:
        """What `Checkpoints.epochs` leaves on a trial; the pool itself is the checkpoint."""
        if self._callbacks:
            epoch = len(pool.steps(position)) - 1
            # Named as `Checkpoints` names them: other names are not believed.
            artifact = f"pool-trial-{position}-epoch-{epoch}-00000000.pt"
            saved = [] if epoch < 0 else [Saved(epoch, epoch + 1, artifact)]
            marked = encode_checkpoints(pool.length, saved)
            write_system_attributes(trial.study, trial, marked)

    def _judges_untrained(self, pool: Pool, spectra: bool) -> bool:
        told = spectra and UNTRAINED_STEP in pool.spectrum_steps
        return told or asks_before_training(self._pruner)


class ChosenSampler(WrappingSampler):
    """Gives each trial the parameters of the configuration that the sampler has chosen."""

    def __init__(self, sampler: BaseSampler, proposals: PoolSampler) -> None:
        super().__init__(sampler)
        self._proposals = proposals
        self._positions: dict[int, int] = {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        super().before_trial(study, trial)
        origin = origin_of(trial)
        if origin is not None:
            self._proposals.chosen = self._positions[trial.number] = self._positions[origin]
            return
        # Here, since Optuna draws parameters no sooner than one is suggested.
        space = self._base.infer_relative_search_space(study, trial)
        self._proposals.take(self._base.sample_relative(study, trial, space))
        self._positions[trial.number] = self._proposals.chosen

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, Any]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: Any,
    ) -> Any:
        return self._proposals.configuration.params[param_name]


def _is_waiting(study: optuna.Study) -> bool:
    return bool(every_trial(study, (TrialState.WAITING,)))


def over_pool(
    pool: Pool, order: list[int], sampler: BaseSampler
) -> tuple[PoolSampler, BaseSampler]:
    """A sampler whose innermost one chooses among the configurations of a pool."""
    if not isinstance(sampler, WrappingSampler):
        proposals = PoolSampler(sampler, pool.configurations, order)
        return proposals, proposals
    proposals, base = over_pool(pool, order, sampler.base)
    if isinstance(sampler, AeLLESampler):
        spent = 0.0

        def spectrum(params: dict[str, Any]) -> FloatArray | None:
            nonlocal spent
            position = proposals.find(params)
            payload = pool.payload(position)
            spent += (payload or {}).get("seconds") or 0.0
            return pool.spectrum(position)

        def clock() -> tuple[float, float]:
            return pool.trained_seconds, spent

        prior = None
        if isinstance(pool.prior, Prior) and sampler.prior is Prior.pretrained():
            # Who brings a prior of its own keeps it.
            prior = pool.prior
        else:
            warn_of_own_task(pool.task, pool.name, sampler.prior)
        return proposals, sampler.around(base, spectrum, prior, clock)
    return proposals, sampler.around(base)
