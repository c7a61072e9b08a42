"""Keras 3 on torch: a callback that reports, prunes, saves and goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
import torch

from optuna_aelle.decisions.checkpoints import Checkpoints
from optuna_aelle.integration._keras_backend import check_backend
from optuna_aelle.integration._keras_backend import keras
from optuna_aelle.integration._keras_layers import keras_network
from optuna_aelle.integration._reporting import TrialReporter
from optuna_aelle.integration._reporting import warn_without_probe

__all__ = ["KerasCallback", "keras_network"]


class KerasCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Report a Keras model on torch to its trial after each epoch, and stop it where it should.

    `optuna.TrialPruned` is raised out of ``model.fit``.

    Args:
        trial: The running trial.
        monitor: The metric to report, as in the logs of an epoch; of several objectives, one
            each.
        probe: A few sequences as the model takes them, an array or a tensor, the same for all
            trials of a study. None goes without spectra.
        checkpoints: Where weights and optimizer are saved and go on from; not what other
            callbacks keep. The model is to be built before ``fit``.
        validation_freq: As given to ``fit``: how many epochs lie between two validations.
        state: As in `spectral_fingerprint`.

    Raises:
        RuntimeError: Keras does not run on torch.
        TypeError: An argument is of another type.
        ValueError: From ``model.fit``, where there is no such metric; or not one an objective.

    Example:
        >>> callback = KerasCallback(trial, monitor="val_loss", probe=probe_inputs)
        >>> model.fit(x, y, validation_split=0.2, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(
        self,
        trial: optuna.trial.BaseTrial,
        monitor: str | Sequence[str] = "val_loss",
        probe: Any = None,
        *,
        checkpoints: Checkpoints | None = None,
        validation_freq: int = 1,
        state: Any = "full",
    ) -> None:
        super().__init__()
        check_backend()
        if validation_freq < 1:
            raise ValueError(f"validation_freq must be at least 1, but got {validation_freq}.")
        self._reporter = TrialReporter(
            trial,
            monitor,
            None if probe is None else torch.as_tensor(probe),
            checkpoints,
            state=state,
        )
        self._validation_freq = validation_freq

    def on_train_begin(self, logs: Any = None) -> None:
        first = 0
        if self._reporter.checkpoints is not None:
            first = self._reporter.begin(self.params["epochs"], model=_FitState(self.model))
            # As Keras' own BackupAndRestore goes on.
            self.model._initial_epoch = first
        if self._reporter.probe is None:
            warn_without_probe("KerasCallback")
        if first == 0:
            self._reporter.untrained(keras_network(self.model))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # It has been read; another fit of this model begins anew.
        self.model._initial_epoch = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        metrics = logs or {}
        if self._reporter.is_in(metrics) or (epoch + 1) % self._validation_freq == 0:
            self._reporter.epoch(keras_network(self.model), metrics, epoch)


class _FitState:
    """What ``model.fit`` changes: weights, and what the optimizer keeps."""

    def __init__(self, model: Any) -> None:
        if not model.built:
            raise ValueError(
                f"Expected a model that is built, so that '{model.name}' can be saved. Give it an "
                "Input layer, or call it on a batch before fit."
            )
        optimizer = model.optimizer
        if optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)
        self._model = model

    def _variables(self) -> list[Any]:
        optimizer = self._model.optimizer
        return [*self._model.variables, *([] if optimizer is None else optimizer.variables)]

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {str(i): x.value.detach().clone() for i, x in enumerate(self._variables())}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        variables = self._variables()
        if len(state) != len(variables):
            raise ValueError(f"expected {len(variables)} variables, but got {len(state)}")
        for i, variable in enumerate(variables):
            variable.assign(state[str(i)])
