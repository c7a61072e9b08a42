"""Checkpoints: what was stopped can go on, and so can what was killed.

What a trial has saved is listed in its attributes (`optuna_aelle.trials.continuation`), and listed
only once it is written: a worker that is killed while it writes leaves a file that nobody reads.
"""

from __future__ import annotations

import copy
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle._warnings import warn_once
from optuna_aelle.decisions.resumption import resume_promising
from optuna_aelle.decisions.states import IN_MEMORY
from optuna_aelle.decisions.states import check_states
from optuna_aelle.decisions.states import read_states
from optuna_aelle.decisions.states import restore_state
from optuna_aelle.decisions.states import state_of
from optuna_aelle.trials.attributes import failed_attempts
from optuna_aelle.trials.continuation import Saved
from optuna_aelle.trials.continuation import decode_checkpoints
from optuna_aelle.trials.continuation import encode_checkpoints
from optuna_aelle.trials.continuation import encode_given_up
from optuna_aelle.trials.continuation import is_given_up
from optuna_aelle.trials.continuation import origin_of
from optuna_aelle.trials.objectives import decode_values
from optuna_aelle.trials.objectives import n_reports
from optuna_aelle.trials.objectives import report_values
from optuna_aelle.trials.storage import every_trial
from optuna_aelle.trials.storage import latest
from optuna_aelle.trials.storage import write_system_attributes

# The latest, and one to fall back on.
_N_KEPT = 2
# A checkpoint is left out where saving would take more than this share of the training.
_SHARE = 0.05


class Checkpoints:
    """Save the networks of a study, so that trials go on where they were stopped.

    Args:
        store: A folder, which is made where it is missing, or an artifact store of Optuna
            (`optuna.artifacts`), such as one on S3 that all workers reach.

    Raises:
        TypeError: ``store`` is neither.

    Example:
        >>> checkpoints = Checkpoints("checkpoints")
        >>> def objective(trial):
        ...     model = nn.Linear(2, 1)
        ...     rate = trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        ...     for epoch in checkpoints.epochs(trial, 9, model=model, optimizer=optimizer):
        ...         loss = (model(torch.ones(8, 2)) - 1.0).square().mean()
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        ...         trial.report(loss.item(), epoch)
        ...         if trial.should_prune():
        ...             raise optuna.TrialPruned
        ...     return loss.item()
        >>> search = optuna.create_study(sampler=AeLLESampler(), pruner=AeLLEPruner())
        >>> search.optimize(objective, n_trials=6, callbacks=[checkpoints.resume_promising])
    """

    def __init__(self, store: str | os.PathLike[str] | Any) -> None:
        self._folder: Path | None = None
        if isinstance(store, str | os.PathLike):
            self._folder = Path(store)
            self._folder.mkdir(parents=True, exist_ok=True)
            store = FileSystemArtifactStore(self._folder)
        missing = [m for m in ("open_reader", "write", "remove") if not hasattr(store, m)]
        if missing:
            raise TypeError(
                f"store must be a folder or an artifact store of Optuna, but got {store!r}."
            )
        self._store = store
        self._lock = threading.Lock()
        # Of each process the first checkpoint is read back.
        self._proven = False

    def __getstate__(self) -> dict[str, Any]:
        return {name: x for name, x in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def epochs(self, trial: optuna.trial.BaseTrial, n_epochs: int, **states: Any) -> Iterator[int]:
        """The epochs that a trial has yet to train, each saved once it is over.

        A trial that continues another one, or retries a failed one, begins after the epoch that
        was saved last, with everything as it was then. What ``trial.should_prune()`` stops is
        saved at once, and so is the last epoch; others only where that takes less than a
        twentieth of the time.

        Args:
            trial: The running trial.
            n_epochs: Of a whole training, counted from 0. At least one is left.
            states: What training changes: whatever has ``state_dict`` and ``load_state_dict``
                (models, optimizers, schedulers, scalers), and ``torch.Generator``. Random states
                of the process are the caller's: pass generators of your own for runs that repeat.

        Raises:
            TypeError: A state is of another kind.
            ValueError: ``n_epochs`` is below 1, or there are no states.
            optuna.TrialPruned: Another worker continues the same trial.
        """
        training = self.begin(trial, n_epochs, **states)
        if not isinstance(trial, optuna.Trial):
            return iter(range(n_epochs))
        return _run(trial, training)

    def begin(
        self, trial: optuna.trial.BaseTrial, n_epochs: int, **states: Any
    ) -> CheckpointedTraining:
        """As `epochs`, for a training loop that somebody else runs, such as a framework's.

        Args:
            trial: The running trial.
            n_epochs: As in `epochs`.
            states: As in `epochs`.

        Returns:
            Where the training begins, with its states as they were there, and what saves them.

        Raises:
            TypeError: A state is of another kind.
            ValueError: ``n_epochs`` is below 1, or there are no states.
            optuna.TrialPruned: Another worker continues the same trial.
        """
        if n_epochs < 1:
            raise ValueError(f"n_epochs must be at least 1, but got {n_epochs}.")
        check_states(states)
        if not isinstance(trial, optuna.Trial):
            # A `FixedTrial` has no study in which it could go on.
            return CheckpointedTraining(0, n_epochs, lambda epoch: None)
        return CheckpointedTraining(
            min(self._begin(trial, n_epochs, states), n_epochs - 1),
            n_epochs,
            lambda epoch: self._save(trial, epoch, n_epochs, states),
        )

    def restore(self, trial: optuna.trial.BaseTrial | FrozenTrial, **states: Any) -> int | None:
        """Bring a network to where it was when a trial was last saved.

        Args:
            trial: Of any state, such as ``study.best_trial``.
            states: As given to `epochs`, or some of them.

        Returns:
            The epoch that was saved, or None where nothing is there that can be read; the states
            are then as they were.
        """
        stored = latest(trial)
        saved = [] if stored is None else decode_checkpoints(stored)
        for checkpoint in saved:
            before = {name: copy.deepcopy(state_of(state)) for name, state in states.items()}
            try:
                with self._open(checkpoint.artifact) as file:
                    kept = read_states(file)
                for name, state in states.items():
                    restore_state(state, kept["states"][name])
                return checkpoint.epoch
            except Exception as error:  # an overnight study must go on, whatever is wrong here
                for name, state in states.items():
                    restore_state(state, before[name])
                warn_once(
                    "checkpoint unreadable",
                    f"The checkpoint of trial {getattr(stored, 'number', '?')} after epoch "
                    f"{checkpoint.epoch} cannot be used ({type(error).__name__}: {error}); the "
                    "training goes on from the one before, or else from its beginning.",
                    error,
                )
        return None

    def resume_promising(self, study: Study, trial: FrozenTrial) -> None:
        """Enqueue the continuation of a stopped trial if it promises more than anything else.

        A callback for ``study.optimize``, also with several workers. `decisions.resumption` says
        what it compares.
        """
        resume_promising(study, trial)

    def _open(self, artifact: str) -> Any:
        # A pipe would keep everybody waiting, and a device never end.
        if self._folder is not None and not (self._folder / artifact).is_file():
            raise FileNotFoundError("it is not there, or no file")
        return self._store.open_reader(artifact)

    def _begin(self, trial: optuna.Trial, n_epochs: int, states: Mapping[str, Any]) -> int:
        """Where a trial begins, with its states as they were there."""
        try:
            stored = latest(trial)
            assert stored is not None
            if _is_late(trial.study, stored):
                write_system_attributes(trial.study, trial, encode_given_up(stored))
                raise optuna.TrialPruned(
                    f"Another worker goes on with trial {origin_of(stored)} already."
                )
            # A retry has the attributes of the attempt that failed, as a continuation those of
            # its origin.
            epoch = self.restore(stored, **states)
            if epoch is not None:
                _carry_curve(trial, stored, epoch)
            marked = encode_checkpoints(n_epochs, decode_checkpoints(stored))
            write_system_attributes(trial.study, trial, marked)
            return 0 if epoch is None else epoch + 1
        except optuna.TrialPruned:
            raise
        except Exception as error:  # a storage hiccup
            warn_once(
                "checkpoints unreadable",
                f"Trial {trial.number} starts from its beginning ({type(error).__name__}: "
                f"{error}).",
                error,
            )
            return 0

    def _save(
        self, trial: optuna.Trial, epoch: int, n_epochs: int, states: Mapping[str, Any]
    ) -> None:
        """Write a checkpoint, list it, and remove what is older than the one before."""
        try:
            stored = latest(trial)
            assert stored is not None
            name = quote(trial.study.study_name, safe="")[:100]
            artifact = f"{name}-trial-{trial.number}-epoch-{epoch}-{uuid.uuid4().hex[:8]}.pt"
            content = {"states": {key: state_of(state) for key, state in states.items()}}
            with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as file:
                self._write(file, content, artifact)
            saved = [
                Saved(epoch, n_reports(stored), artifact),
                *decode_checkpoints(stored),
            ]
            kept, old = saved[:_N_KEPT], saved[_N_KEPT:]
            write_system_attributes(trial.study, trial, encode_checkpoints(n_epochs, kept))
            for checkpoint in old:
                with suppress(ArtifactNotFound):
                    self._store.remove(checkpoint.artifact)
        except Exception as error:  # an overnight study must go on, whatever is wrong here
            warn_once(
                "checkpoint not saved",
                f"Trial {trial.number} could not be saved after epoch {epoch} "
                f"({type(error).__name__}: {error}); if it is stopped, it may not go on later.",
                error,
            )

    def _write(self, file: Any, content: Mapping[str, Any], artifact: str) -> None:
        import torch

        torch.save(content, file)
        with self._lock:
            if not self._proven:
                # Better to hear of it now than when it is needed.
                file.seek(0)
                read_states(file)
                self._proven = True
        file.seek(0)
        try:
            self._store.write(artifact, file)
        except BaseException:
            # Nobody reads half a checkpoint, and the disk may be full.
            with suppress(Exception):
                self._store.remove(artifact)
            raise


class CheckpointedTraining:
    """The training of a trial in a loop that somebody else runs; made by `Checkpoints.begin`.

    Args:
        first: The epoch that is trained first.
        n_epochs: Of a whole training.
        save: Saves the states as they are, as after this epoch.

    Attributes:
        first: The epoch that is trained first.
        n_epochs: Of a whole training.

    Example:
        >>> training = Checkpoints("checkpoints").begin(trial, 3, model=nn.Linear(2, 1))
        >>> for epoch in range(training.first, 3):
        ...     training.save_if_cheap(epoch)
    """

    def __init__(self, first: int, n_epochs: int, save: Callable[[int], None]) -> None:
        self.first = first
        self.n_epochs = n_epochs
        self._save = save
        self._saved_at, self._cost = time.perf_counter(), 0.0

    def save(self, epoch: int) -> None:
        """Save what has been trained until this epoch, as whoever stops it should."""
        started = time.perf_counter()
        self._save(epoch)
        self._saved_at = time.perf_counter()
        self._cost = self._saved_at - started

    def is_due(self, epoch: int) -> bool:
        """Whether this is the last epoch, or saving takes a twentieth of the time at most."""
        spent = time.perf_counter() - self._saved_at
        return epoch == self.n_epochs - 1 or self._cost <= _SHARE * spent

    def save_if_cheap(self, epoch: int) -> None:
        """Save the last epoch, and of others those that `is_due` says."""
        if self.is_due(epoch):
            self.save(epoch)


def _run(trial: optuna.Trial, training: CheckpointedTraining) -> Iterator[int]:
    at, n_before = -1, 0

    def save_if_stopped() -> bool:
        stopped = asked()
        # With a report the epoch is complete.
        if stopped and at >= 0 and _n_reports(trial) > n_before:
            training.save(at)
        return stopped

    # Not when the loop is left: where somebody keeps the iterator, that is when garbage is
    # collected, perhaps in the middle of a transaction of the storage.
    asked = trial.should_prune
    trial.should_prune = save_if_stopped  # type: ignore[method-assign]
    try:
        for at in range(training.first, training.n_epochs):
            n_before = _n_reports(trial)
            yield at
            training.save_if_cheap(at)
    finally:
        vars(trial).pop("should_prune", None)


def _is_late(study: Study, trial: FrozenTrial) -> bool:
    """Whether a continuation was enqueued, by another worker, before this one of the same."""
    origin = origin_of(trial)
    if origin is None:
        return False
    return any(
        origin_of(other) == origin
        and other.number < trial.number
        # One that failed is no longer there to be told from.
        and other.state != TrialState.FAIL
        and not is_given_up(other)
        and other.number not in failed_attempts(trial)
        for other in every_trial(study)
    )


def _carry_curve(trial: optuna.Trial, stored: FrozenTrial, epoch: int) -> None:
    """Report what a failed attempt had until ``epoch``, where its retry has not inherited it."""
    attempts = failed_attempts(stored)
    if not attempts:
        return
    n_saved = next(s.reports for s in decode_checkpoints(stored) if s.epoch == epoch)
    latest_attempt = next(
        (t for t in every_trial(trial.study) if t.number == max(attempts)), stored
    )
    for step, value in sorted(latest_attempt.intermediate_values.items())[:n_saved]:
        if step not in stored.intermediate_values:
            trial.report(value, step)
    known = decode_values(stored)
    for step, values in [*decode_values(latest_attempt).items()][:n_saved]:
        if step not in known:
            report_values(trial.study, trial, values, step)


def _n_reports(trial: optuna.Trial) -> int:
    stored = latest(trial)
    return 0 if stored is None else len(stored.intermediate_values)
