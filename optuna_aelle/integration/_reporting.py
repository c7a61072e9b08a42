"""What all callbacks do, whatever framework they are for: report, ask, and say what comes of it.

A callback tells a `TrialReporter` of the untrained network and of each epoch; that raises
`optuna.TrialPruned` where the trial is to stop. Of several processes the first one does all of
this (`optuna_aelle.integration._processes`).
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import Literal

import optuna

from optuna_aelle._warnings import warn_once
from optuna_aelle.decisions.checkpoints import CheckpointedTraining
from optuna_aelle.decisions.checkpoints import Checkpoints
from optuna_aelle.decisions.multi_objective import should_prune
from optuna_aelle.decisions.verdict import DECISION_KEY
from optuna_aelle.decisions.wrapping import asks_before_training
from optuna_aelle.integration.attaching import TrialHandle
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.continuation import is_inherited
from optuna_aelle.trials.reporting import report_network
from optuna_aelle.trials.storage import latest

if TYPE_CHECKING:
    from torch import nn

    from optuna_aelle.lyapunov import StepModel
    from optuna_aelle.lyapunov.inputs import Inputs


class TrialReporter:
    """The trial of one training, as a callback speaks to it.

    Args:
        trial: The running trial.
        monitor: The name of the metric that is reported; of several objectives, one each, in the
            order of ``study.directions``.
        probe: As the inputs of `report_network`; None goes without spectra.
        checkpoints: Where the training is saved; None for nowhere.
        state: As in `report_network`.
        direction: As in `report_network`.

    Attributes:
        monitor: The names of all metrics that are reported.

    Raises:
        TypeError: An argument is of another type.
        ValueError: The study has another number of objectives.

    Example:
        >>> reporter = TrialReporter(trial, "loss", probe_inputs)
        >>> reporter.untrained(rnn)
        >>> reporter.epoch(rnn, {"loss": 0.7}, epoch=0)
    """

    def __init__(
        self,
        trial: optuna.trial.BaseTrial,
        monitor: str | Sequence[str],
        probe: Inputs | None,
        checkpoints: Checkpoints | None = None,
        *,
        state: Literal["full", "hidden"] = "full",
        direction: Literal["forward", "backward"] | None = None,
    ) -> None:
        if not isinstance(trial, optuna.Trial | optuna.trial.FixedTrial):
            raise TypeError(
                "Expected the trial that the objective was called with, an optuna.Trial or a "
                f"FixedTrial, but got {trial!r}. Where several processes train one network, the "
                "first one has the trial, and what came of it is told to the others."
            )
        if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
            raise TypeError(
                f"checkpoints must be optuna_aelle.Checkpoints or None, but got {checkpoints!r}."
            )
        self._handle = TrialHandle(trial)
        self.monitor = _names(monitor, trial)
        self.probe = probe
        self.checkpoints = checkpoints
        self._state = state
        self._direction = direction
        self._training: CheckpointedTraining | None = None
        self._values: tuple[float, ...] = ()

    @property
    def trial(self) -> optuna.trial.BaseTrial:
        """The trial, as this process may use it."""
        return self._handle.trial

    def begin(self, n_epochs: int, **states: Any) -> int:
        """The epoch to train first, with the states as they were before it.

        Raises:
            optuna.TrialPruned: Another worker goes on with the same network.
        """
        if self.checkpoints is None:
            return 0
        self._training = self.checkpoints.begin(self.trial, n_epochs, **states)
        return self._training.first

    def untrained(self, model: nn.Module | StepModel) -> None:
        """Report the network before its first epoch; nothing is lost where it is stopped here.

        Raises:
            optuna.TrialPruned: The trial is to stop.
        """
        self._report_spectrum(model, UNTRAINED_STEP)
        study = getattr(self.trial, "study", None)
        # Of several objectives the study's pruner is not asked.
        if study is not None and self._is_single and asks_before_training(study.pruner):
            self._stop_if_asked(UNTRAINED_STEP)

    def epoch(self, model: nn.Module | StepModel, metrics: Mapping[str, Any], epoch: int) -> None:
        """Report the network and its metric after an epoch, counted from 0, and save it.

        Raises:
            optuna.TrialPruned: The trial is to stop.
            ValueError: The metric is not there, or no number.
        """
        self.report(model, metrics, epoch)
        self._stop_if_asked(epoch)
        if self._training is not None:
            self._training.save_if_cheap(epoch)

    def report(self, model: nn.Module | StepModel, metrics: Mapping[str, Any], epoch: int) -> None:
        """The first half of `epoch`, for who saves in ways of their own."""
        self._values = self.values(metrics)
        self._report_spectrum(model, epoch)
        # A network that had to begin anew trains again what it has inherited. Several values are
        # reported where it is asked whether to stop.
        if self._is_single and not is_inherited(self.trial, epoch):
            self.trial.report(self._values[0], epoch)

    def values(self, metrics: Mapping[str, Any]) -> tuple[float, ...]:
        """What is monitored.

        Raises:
            ValueError: A metric is not there, or no number.
        """
        return tuple(metric(metrics, name) for name in self.monitor)

    def is_in(self, metrics: Collection[str]) -> bool:
        """Whether all that is monitored is there."""
        return all(name in metrics for name in self.monitor)

    def should_save(self, epoch: int) -> bool:
        """Whether saving is due, by who saves in ways of their own."""
        return self._training is not None and self._training.is_due(epoch)

    def save(self, epoch: int) -> None:
        """Save the states that `begin` was given."""
        if self._training is not None:
            self._training.save(epoch)

    def why_stopped(self, step: int) -> str | None:
        """What is to be said of it if the trial is to stop now; None if not."""
        if not self._should_prune(step):
            return None
        when = "before training" if step == UNTRAINED_STEP else f"after epoch {step}"
        return f"Trial {self.trial.number} was stopped {when}.{self._decision()}"

    @property
    def _is_single(self) -> bool:
        return len(self.monitor) == 1

    def _should_prune(self, step: int) -> bool:
        trial = self.trial
        if self._is_single or not isinstance(trial, optuna.Trial):
            return trial.should_prune()
        return should_prune(trial.study, trial, self._values, step)

    def _stop_if_asked(self, step: int) -> None:
        why = self.why_stopped(step)
        if why is None:
            return
        if step != UNTRAINED_STEP:
            self.save(step)
        raise optuna.TrialPruned(why)

    def _report_spectrum(self, model: nn.Module | StepModel, step: int) -> None:
        if self.probe is None:
            return
        report_network(
            self.trial, model, self.probe, step, state=self._state, direction=self._direction
        )

    def _decision(self) -> str:
        """The pruner's own sentence, where it has left one."""
        try:
            stored = latest(self.trial)
            said = None if stored is None else stored.user_attrs.get(DECISION_KEY)
        except Exception:  # a storage hiccup must not undo a decision
            said = None
        return f" {said}" if isinstance(said, str) else ""


def _names(monitor: str | Sequence[str], trial: optuna.trial.BaseTrial) -> tuple[str, ...]:
    """The names of metrics, one for each objective."""
    names = [monitor] if isinstance(monitor, str) else monitor
    is_several = isinstance(names, list | tuple) and len(names) > 0
    if not is_several or not all(isinstance(name, str) for name in names):
        raise TypeError(
            "monitor must be the name of a metric, or several in a list or tuple, but got "
            f"{monitor!r}."
        )
    n_objectives = len(trial.study.directions) if isinstance(trial, optuna.Trial) else len(names)
    if len(names) != n_objectives:
        raise ValueError(
            f"Expected as many metrics to monitor as the study has objectives, {n_objectives}, "
            f"but got {monitor!r}."
        )
    return tuple(names)


def metric(metrics: Mapping[str, Any], name: str) -> float:
    """One of a framework's metrics, a number or a tensor, as a number.

    Raises:
        ValueError: It is not there, or no single number.

    Example:
        >>> metric({"val_loss": torch.tensor(0.5)}, "val_loss")
        0.5
    """
    if name not in metrics:
        raise ValueError(
            f"Expected a metric {name!r} to report, but there is none. {available(metrics)} Log "
            f"it, or set monitor= to one of these."
        )
    value = metrics[name]
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Expected one number in {name!r}, but got {value!r}.") from error


def available(metrics: Collection[str]) -> str:
    """A sentence on the names that there are.

    Example:
        >>> available({"loss": 1.0, "accuracy": 0.5})
        "Available: 'accuracy', 'loss'."
    """
    names = ", ".join(repr(name) for name in sorted(metrics))
    return f"Available: {names}." if names else "There are no metrics at all."


def warn_without_probe(callback: str) -> None:
    """Say once that there are no spectra for want of probe inputs."""
    warn_once(
        "no probe inputs",
        f"{callback} goes without spectra: it has no probe inputs. Pass probe=, a few sequences "
        "as the model takes them, the same for all trials of a study.",
    )
