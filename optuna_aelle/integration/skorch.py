"""skorch: a callback that reports, prunes, saves and goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import Literal

import optuna
from skorch.callbacks import Callback

from optuna_aelle.decisions.checkpoints import Checkpoints
from optuna_aelle.integration._batches import inputs_of
from optuna_aelle.integration._reporting import TrialReporter
from optuna_aelle.integration._reporting import warn_without_probe

if TYPE_CHECKING:
    from optuna_aelle.lyapunov.inputs import Inputs


class SkorchCallback(Callback):  # type: ignore[misc]
    """Report the module of a skorch net to its trial after each epoch, and stop it.

    `optuna.TrialPruned` is raised out of ``net.fit``. Put it behind the callbacks whose scores it
    reports, and behind schedules.

    Args:
        trial: The running trial.
        monitor: The metric to report, as in ``net.history``; of several objectives, one each.
        probe: A few sequences as the module takes them, the same for all trials of a study. None
            takes the inputs of the first batch.
        checkpoints: Where modules, optimizers and schedules are saved and go on from. One that
            goes on is fitted for the epochs of ``max_epochs`` that are left.
        state: As in `spectral_fingerprint`.
        direction: As in `spectral_fingerprint`.

    Raises:
        TypeError: From ``net.initialize``, where an argument is of another type.
        ValueError: From ``net.fit``, where there is no such metric.

    Example:
        >>> callback = SkorchCallback(trial, monitor="valid_loss", probe=probe_inputs)
        >>> net = NeuralNetRegressor(Module, callbacks=[callback])  # doctest: +SKIP
        >>> net.fit(x, y)  # doctest: +SKIP
    """

    def __init__(
        self,
        trial: optuna.trial.BaseTrial,
        monitor: str | Sequence[str] = "valid_loss",
        probe: Inputs | None = None,
        *,
        checkpoints: Checkpoints | None = None,
        state: Literal["full", "hidden"] = "full",
        direction: Literal["forward", "backward"] | None = None,
    ) -> None:
        self.trial = trial
        self.monitor = monitor
        self.probe = probe
        self.checkpoints = checkpoints
        self.state = state
        self.direction = direction

    def initialize(self) -> SkorchCallback:
        self.reporter_ = TrialReporter(
            self.trial,
            self.monitor,
            self.probe,
            self.checkpoints,
            state=self.state,
            direction=self.direction,
        )
        return self

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **of: Any) -> None:
        self.max_epochs_ = net.max_epochs
        first = 0
        if self.checkpoints is not None:
            first = self.reporter_.begin(net.max_epochs, **_states(net))
            net.max_epochs -= first
        self.epoch_ = first
        self.is_told_ = first > 0

    def on_batch_begin(self, net: Any, batch: Any = None, training: Any = None, **of: Any) -> None:
        if self.reporter_.probe is None:
            self.reporter_.probe = inputs_of(batch)
        if self.is_told_:
            return
        self.is_told_ = True
        if self.reporter_.probe is None:
            warn_without_probe("SkorchCallback")
        self._tell(net, lambda: self.reporter_.untrained(net.module_))

    def on_epoch_end(self, net: Any, **of: Any) -> None:
        metrics = {name: x for name, x in net.history[-1].items() if name != "batches"}
        self._tell(net, lambda: self.reporter_.epoch(net.module_, metrics, self.epoch_))
        self.epoch_ += 1

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **of: Any) -> None:
        net.max_epochs = self.max_epochs_

    def _tell(self, net: Any, tell: Any) -> None:
        try:
            tell()
        except BaseException:
            net.max_epochs = self.max_epochs_
            raise


def _states(net: Any) -> dict[str, Any]:
    """What a fit changes, by the names that skorch gives it."""
    names = [*net._modules, *net._criteria, *net._optimizers]
    states = {f"{name}_": getattr(net, f"{name}_") for name in names}
    schedules = {
        f"schedule {name}": callback.lr_scheduler_
        for name, callback in net.callbacks_
        if hasattr(callback, "lr_scheduler_")
    }
    return {
        name: state
        for name, state in {**states, **schedules}.items()
        if hasattr(state, "load_state_dict")
    }
