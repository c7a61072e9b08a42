"""Hugging Face: a callback for ``transformers.Trainer`` that reports, prunes, saves and goes on.

What goes on is what the Trainer itself saves, its checkpoint folder with optimizer, scheduler,
counters and random states; `optuna_aelle.Checkpoints` keeps the files of that folder.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any
from typing import Literal

import optuna
import torch
from transformers import TrainerCallback

from optuna_aelle.decisions.checkpoints import Checkpoints
from optuna_aelle.integration._batches import inputs_of
from optuna_aelle.integration._processes import check_trials
from optuna_aelle.integration._processes import from_first
from optuna_aelle.integration._processes import name_of
from optuna_aelle.integration._processes import together
from optuna_aelle.integration._reporting import TrialReporter
from optuna_aelle.integration._reporting import warn_without_probe

if TYPE_CHECKING:
    from optuna_aelle.lyapunov.inputs import Inputs

# Python objects of which going on has no need: nothing is unpickled that was kept.
_LEFT_OUT = ("training_args.bin",)


class TransformersCallback(TrainerCallback):
    """Report the model of a ``Trainer`` to its trial after each evaluation, and stop it.

    `optuna.TrialPruned` is raised out of ``trainer.train``. Steps are evaluations, counted from 0:
    epochs where ``eval_strategy="epoch"``. An evaluation before or after the training is not
    reported.

    Args:
        trial: The running trial. Where several processes run the objective, as under ``torchrun``,
            the first one's; None in the others.
        monitor: The metric to report, with or without its ``eval_``; of several objectives, one
            each.
        probe: A few sequences as the model takes them first, such as ``input_ids``, the same for
            all trials of a study; or a mapping that holds them. None goes without spectra.
        checkpoints: Where the training is saved and goes on from, by `resume`. Needs
            ``eval_strategy="epoch"`` and ``num_train_epochs``.
        state: As in `spectral_fingerprint`.
        direction: As in `spectral_fingerprint`.

    Raises:
        TypeError: An argument is of another type.
        ValueError: From ``trainer.train``, where there is no such metric, or no evaluation.

    Example:
        >>> callback = TransformersCallback(trial, monitor="eval_loss", probe=probe_inputs)
        >>> trainer = Trainer(model, args, callbacks=[callback])  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    def __init__(
        self,
        trial: optuna.trial.BaseTrial | None,
        monitor: str | Sequence[str] = "eval_loss",
        probe: Inputs | Mapping[str, Any] | None = None,
        *,
        checkpoints: Checkpoints | None = None,
        state: Literal["full", "hidden"] = "full",
        direction: Literal["forward", "backward"] | None = None,
    ) -> None:
        self._reporter = TrialReporter(
            optuna.trial.FixedTrial({}) if trial is None else trial,
            _evaluated(monitor),
            inputs_of(probe) if isinstance(probe, Mapping) else probe,
            checkpoints,
            state=state,
            direction=direction,
        )
        self._name = name_of(trial)
        self._folder = _Folder()
        self._first: int | None = None
        self._n_evaluated = 0
        # The step that a training begins at; None where there is none.
        self._began: int | None = None
        self._seen: dict[str, Any] = {}
        # Of several sets that are evaluated one after another, until all is there.
        self._fresh: dict[str, Any] = {}
        self._has_reported = False
        # What is to be raised, and of which epoch, once that is saved.
        self._stop: str | None = None
        self._to_save: int | None = None
        self._is_ours = False

    def resume(self, trainer: Any) -> str | None:
        """What to give to ``trainer.train`` so that it goes on where the trial was saved.

        Args:
            trainer: The trainer, with this callback among its callbacks.

        Returns:
            A folder, or None where the training begins anew.

        Raises:
            ValueError: There are no ``checkpoints``, or the trainer does not count epochs.
            optuna.TrialPruned: Another worker goes on with the same trial.

        Example:
            >>> folder = callback.resume(trainer)  # doctest: +SKIP
            >>> trainer.train(resume_from_checkpoint=folder)  # doctest: +SKIP
        """
        if self._reporter.checkpoints is None:
            raise ValueError("Expected checkpoints to resume from: pass checkpoints= beforehand.")
        args = trainer.args
        if str(args.eval_strategy.value) != "epoch" or args.max_steps > 0:
            raise ValueError(
                "Checkpoints count epochs, but got eval_strategy="
                f"{args.eval_strategy.value!r} and max_steps={args.max_steps}. Pass "
                "TrainingArguments(eval_strategy='epoch', num_train_epochs=...)."
            )
        n_epochs = math.ceil(args.num_train_epochs)

        def begin() -> tuple[int, dict[str, Any]]:
            first = self._reporter.begin(n_epochs, folder=self._folder)
            return first, self._folder.state_dict() if first else {}

        first, files = together(trainer.is_world_process_zero(), from_first, begin)
        self._first = int(first)
        if not first:
            return None
        if not trainer.is_world_process_zero():
            self._folder.load_state_dict(files)
        return str(self._folder.path)

    def on_train_begin(self, args: Any, state: Any, control: Any, **of: Any) -> None:
        check_trials(self._name)
        if str(args.eval_strategy.value) == "no":
            raise ValueError(
                "Expected evaluations to report, but got eval_strategy='no'. Pass "
                "TrainingArguments(eval_strategy='epoch') and an eval_dataset."
            )
        if self._reporter.checkpoints is not None and self._first is None:
            raise ValueError(
                "Expected to hear where the training goes on: with checkpoints, call "
                "trainer.train(resume_from_checkpoint=callback.resume(trainer))."
            )
        if self._first and state.global_step == 0:
            raise ValueError(
                f"This trial goes on with epoch {self._first}, but the trainer begins anew. Pass "
                "what callback.resume(trainer) returns as trainer.train's resume_from_checkpoint."
            )
        self._began, self._n_evaluated = state.global_step, self._first or 0
        if self._reporter.probe is None:
            warn_without_probe("TransformersCallback")
        if not self._first:
            self._together(state, lambda: self._reporter.untrained(of["model"]))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **of: Any
    ) -> Any:
        if self._began is None or state.global_step == self._began:
            return control
        self._seen |= metrics
        self._fresh |= metrics
        if not self._reporter.is_in(self._fresh):
            return control
        told, self._fresh = self._fresh, {}
        epoch, self._n_evaluated = self._n_evaluated, self._n_evaluated + 1

        def report() -> tuple[str | None, bool]:
            self._reporter.report(of["model"], told, epoch)
            why = self._reporter.why_stopped(epoch)
            saves = self._reporter.checkpoints is not None
            return why, saves and (why is not None or self._reporter.should_save(epoch))

        self._stop, is_saved = self._together(state, report)
        self._has_reported = True
        if is_saved:
            # What is the best so far the trainer finds out only after this.
            theirs = (
                control.should_save
                or str(args.save_strategy.value) == "best"
                # An older one is removed for it.
                or args.save_total_limit is not None
                or _checkpoint(args, state).exists()
            )
            self._to_save, self._is_ours = epoch, not theirs
            control.should_save = True
        else:
            self._stop_if_said()
        return control

    def on_save(self, args: Any, state: Any, control: Any, **of: Any) -> None:
        if self._to_save is None:
            return
        epoch, self._to_save = self._to_save, None
        path = _checkpoint(args, state)

        def save() -> None:
            self._folder.path = path
            self._reporter.save(epoch)
            if self._is_ours:
                # Nobody else has asked for it.
                shutil.rmtree(path, ignore_errors=True)

        # Here all processes meet, once each of them has written its files.
        from_first(None)
        self._together(state, save)
        self._stop_if_said()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **of: Any) -> None:
        # Where the trainer has not saved after all.
        self._to_save = None
        self._stop_if_said()
        self._check_metric()

    def on_train_end(self, args: Any, state: Any, control: Any, **of: Any) -> None:
        self._began = None
        self._folder.clear()
        self._stop_if_said()
        self._check_metric()

    def _check_metric(self) -> None:
        if self._seen and not self._has_reported:
            self._reporter.values(self._seen)

    def _stop_if_said(self) -> None:
        if self._stop is not None:
            self._folder.clear()
            raise optuna.TrialPruned(self._stop)

    def _together(self, state: Any, decide: Any) -> Any:
        return together(state.is_world_process_zero, from_first, decide)


def _checkpoint(args: Any, state: Any) -> Path:
    """Where the Trainer saves now."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _evaluated(monitor: Any) -> Any:
    """As the Trainer calls its metrics."""
    if isinstance(monitor, list | tuple):
        return [_evaluated(name) for name in monitor]
    bare = isinstance(monitor, str) and not monitor.startswith("eval_")
    return f"eval_{monitor}" if bare else monitor


class _Folder:
    """The files of a folder, as a state that `Checkpoints` saves."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self._own: tempfile.TemporaryDirectory[str] | None = None

    def state_dict(self) -> dict[str, Any]:
        paths = [] if self.path is None else sorted(self.path.iterdir())
        return {
            path.name: torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
            for path in paths
            if path.is_file() and path.stat().st_size and path.name not in _LEFT_OUT
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.clear()
        self._own = tempfile.TemporaryDirectory(prefix="aelle-", ignore_cleanup_errors=True)
        self.path = Path(self._own.name)
        for name, content in state.items():
            # Whatever a file says of itself, it stays in the folder.
            (self.path / Path(name).name).write_bytes(content.numpy().tobytes())

    def clear(self) -> None:
        """Remove what was written to go on from."""
        if self._own is not None:
            self._own.cleanup()
            self._own, self.path = None, None
