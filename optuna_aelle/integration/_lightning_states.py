"""What Lightning's ``trainer.fit`` changes, as `optuna_aelle.Checkpoints` saves it.

All of it is saved between two epochs. So the loops go on as if they had just finished one, and
not as Lightning does where a checkpoint was made somewhere within.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def fit_states(trainer: Any, module: Any, callback: object) -> dict[str, Any]:
    """Everything with a state of its own that a training changes, by name.

    Args:
        trainer: The running trainer, its optimizers made.
        module: The trained module.
        callback: The one that is asking, which is left out.

    Example:
        >>> states = fit_states(trainer, module, callback)  # doctest: +SKIP
        >>> checkpoints.begin(trial, 20, **states)  # doctest: +SKIP
    """
    states: dict[str, Any] = {
        "module": _Module(module),
        "progress": _Progress(trainer),
        "precision": trainer.precision_plugin,
    }
    states |= {f"optimizer {i}": x for i, x in enumerate(trainer.optimizers)}
    schedules = (config.scheduler for config in trainer.lr_scheduler_configs)
    states |= {f"schedule {i}": x for i, x in enumerate(schedules)}
    others = [x for x in trainer.callbacks if x is not callback and x.state_dict()]
    states |= {f"callback {x.state_key}": x for x in others}
    if trainer.datamodule is not None:
        states["data"] = trainer.datamodule
    return states


class _Module:
    """A module with what it adds to its checkpoints itself."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def state_dict(self) -> dict[str, Any]:
        content = {"state_dict": self._module.state_dict()}
        self._module.on_save_checkpoint(content)
        return content

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._module.on_load_checkpoint(state)
        self._module.load_state_dict(state["state_dict"])


class _Progress:
    """How far the loops are: epochs, batches, steps of optimizers."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._loop = trainer.fit_loop

    def state_dict(self) -> dict[str, Any]:
        return {"n_done": self._trainer.current_epoch, "loops": self._loop.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        loops = dict(state["loops"])
        # Where data loaders were within an epoch is of no use to the next one.
        loops["state_dict"] = {}
        self._loop.load_state_dict(loops)
        epochs = self._loop.epoch_progress
        for count in (epochs.total, epochs.current):
            for name in vars(count):
                setattr(count, name, state["n_done"])
        batches = self._loop.epoch_loop.batch_progress
        batches.reset_on_run()
        for loop in _with_inner(self._loop):
            for flag in _RESTART_FLAGS & vars(loop).keys():
                setattr(loop, flag, False)


_RESTART_FLAGS = {"_restarting", "_loaded_from_state_dict", "_resuming_from_checkpoint"}


def _with_inner(loop: Any) -> Iterator[Any]:
    yield loop
    for inner in vars(loop).values():
        if "_restarting" in getattr(inner, "__dict__", ()):
            yield from _with_inner(inner)
