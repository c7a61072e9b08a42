"""PyTorch Lightning: a callback that reports, prunes, saves and goes on.

What an epoch has logged is complete once the next one starts or the training is over, learning
rates included: that is when it is reported. Of several processes the first one decides, and all
raise `optuna.TrialPruned` together; where they were spawned or forked, the process that has
started them raises it then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import Literal

import optuna
from torch.multiprocessing.spawn import ProcessRaisedException

from optuna_aelle._warnings import warn_once
from optuna_aelle.decisions.checkpoints import Checkpoints
from optuna_aelle.integration._batches import inputs_of
from optuna_aelle.integration._lightning_states import fit_states
from optuna_aelle.integration._processes import check_trials
from optuna_aelle.integration._processes import name_of
from optuna_aelle.integration._processes import together
from optuna_aelle.integration._reporting import TrialReporter
from optuna_aelle.integration._reporting import warn_without_probe

if TYPE_CHECKING:
    from optuna_aelle.lyapunov.inputs import Inputs

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError as error:
    if error.name not in ("lightning", "lightning.pytorch"):
        raise
    from pytorch_lightning import Callback  # type: ignore[assignment]


class LightningCallback(Callback):
    """Report a ``LightningModule`` to its trial after each epoch, and stop it where it should.

    The recurrent parts of the module are found as `layers_of` finds them. `optuna.TrialPruned` is
    raised out of ``trainer.fit``. A metric that was logged in a validation is reported after the
    epochs that have one, others after each; sanity checks are not reported.

    Args:
        trial: The running trial. Where several processes run the objective, as under ``torchrun``,
            the first one's; None in the others.
        monitor: The metric to report, as it was logged; of several objectives, one each. Log it
            with ``sync_dist=True`` where there are several devices.
        probe: A few sequences as the module's ``forward`` takes them, the same for all trials of
            a study. None takes the inputs of the first batch: of validation, or else of training.
        checkpoints: Where the training is saved and goes on from: module, optimizers, schedulers,
            progress, precision, and other callbacks. Needs ``Trainer(max_epochs=...)``, and the
            whole network on each device.
        module: The submodule that takes ``probe``, such as ``"model"``, where the module itself
            has no ``forward``.
        state: As in `spectral_fingerprint`.
        direction: As in `spectral_fingerprint`.

    Raises:
        TypeError: An argument is of another type.
        ValueError: From ``trainer.fit``, where nothing by the name of ``monitor`` was logged, or
            where processes have trials of their own.

    Example:
        >>> callback = LightningCallback(trial, monitor="val_loss", probe=probe_inputs)
        >>> trainer = Trainer(max_epochs=20, callbacks=[callback])  # doctest: +SKIP
        >>> trainer.fit(module, train_batches, val_batches)  # doctest: +SKIP
    """

    def __init__(
        self,
        trial: optuna.trial.BaseTrial | None,
        monitor: str | Sequence[str],
        probe: Inputs | None = None,
        *,
        checkpoints: Checkpoints | None = None,
        module: str | None = None,
        state: Literal["full", "hidden"] = "full",
        direction: Literal["forward", "backward"] | None = None,
    ) -> None:
        super().__init__()
        # Processes without a trial only follow.
        self._reporter = TrialReporter(
            optuna.trial.FixedTrial({}) if trial is None else trial,
            monitor,
            probe,
            checkpoints,
            state=state,
            direction=direction,
        )
        self._module = module
        self._name = name_of(trial)
        self._is_told = False  # of the untrained network
        self._is_spread = False
        self._ended: int | None = None
        self._logged: set[str] = set()
        self._source: Literal["validation", "other"] | None = None
        self._validated = False
        self._has_reported = False

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        check_trials(self._name)
        if self._module is not None:
            pl_module.get_submodule(self._module)
        name = type(trainer.strategy).__name__
        if name in _WHOLE:
            return
        if self._reporter.checkpoints is not None:
            raise ValueError(
                f"Checkpoints expect the whole network in each process, but {name} may spread it. "
                "Leave checkpoints= out, or train with 'auto', 'ddp' or 'ddp_spawn'."
            )
        self._reporter.probe, self._is_spread = None, True
        warn_once(
            "network is spread",
            f"{name} may spread the network over processes: it is reported without spectra.",
        )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        first = self._begin(trainer, pl_module)
        self._is_told = first > 0
        self._tell_untrained(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self._see(batch)
        if self._reporter.probe is None and not self._is_spread:
            warn_without_probe("LightningCallback")
        self._tell_untrained(trainer, pl_module, at_last=True)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._see(batch)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._logged = self._monitored(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._validated = True
        if self._source is None and self._monitored(trainer) - self._logged:
            self._source = "validation"

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._ended = trainer.current_epoch

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._tell_epoch(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        trained = self._ended is not None
        self._tell_epoch(trainer, pl_module)
        if trained and not self._has_reported:
            self._reporter.values(trainer.callback_metrics)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if isinstance(exception, ProcessRaisedException):
            said = str(exception).strip().splitlines()[-1]
            kind, _, why = said.partition(": ")
            if kind.rpartition(".")[2] == optuna.TrialPruned.__name__:
                raise optuna.TrialPruned(why) from None

    def _begin(self, trainer: Any, pl_module: Any) -> int:
        """Bring the training of all processes to where the trial was saved."""
        if self._reporter.checkpoints is None:
            return 0
        n_epochs = trainer.max_epochs
        if n_epochs is None or n_epochs < 1:
            raise ValueError(
                f"Checkpoints need to know when the training ends, but got max_epochs={n_epochs}. "
                "Pass Trainer(max_epochs=...)."
            )
        states = fit_states(trainer, pl_module, self)

        def begin() -> tuple[int, dict[str, Any] | None]:
            first = self._reporter.begin(n_epochs, **states)
            alone = first == 0 or trainer.world_size == 1
            kept = None if alone else {name: x.state_dict() for name, x in states.items()}
            return first, kept

        first, kept = together(trainer.is_global_zero, trainer.strategy.broadcast, begin)
        if kept is not None and not trainer.is_global_zero:
            for name, state in states.items():
                state.load_state_dict(kept[name])
        return int(first)

    def _tell_untrained(self, trainer: Any, pl_module: Any, *, at_last: bool = False) -> None:
        """Of the untrained network, as soon as there is something to run it on."""
        if self._is_told:
            return

        def tell() -> bool:
            if self._reporter.probe is None and not at_last and not self._is_spread:
                return False
            self._reporter.untrained(self._network(pl_module))
            return True

        self._is_told = together(trainer.is_global_zero, trainer.strategy.broadcast, tell)

    def _tell_epoch(self, trainer: Any, pl_module: Any) -> None:
        if self._ended is None:
            return
        epoch = self._ended

        def tell() -> bool:
            if not self._is_due(trainer):
                return False
            self._reporter.epoch(self._network(pl_module), trainer.callback_metrics, epoch)
            return True

        reported = together(trainer.is_global_zero, trainer.strategy.broadcast, tell)
        self._has_reported = self._has_reported or reported
        self._ended, self._validated = None, False

    def _is_due(self, trainer: Any) -> bool:
        """Whether the epoch that has ended has a value of its own."""
        if self._source == "validation":
            return self._validated
        if self._reporter.is_in(trainer.callback_metrics):
            self._source = "other"
            return True
        # A validation that is yet to come may log it; what nothing logs is told at once.
        return self._validated or not any(trainer.num_val_batches)

    def _monitored(self, trainer: Any) -> set[str]:
        """What is monitored and was logged."""
        return {name for name in self._reporter.monitor if name in trainer.callback_metrics}

    def _network(self, pl_module: Any) -> Any:
        return pl_module if self._module is None else pl_module.get_submodule(self._module)

    def _see(self, batch: Any) -> None:
        if self._reporter.probe is None and not self._is_spread:
            self._reporter.probe = inputs_of(batch)


# Strategies that keep the whole network in each process.
_WHOLE = ("SingleDeviceStrategy", "DDPStrategy")
