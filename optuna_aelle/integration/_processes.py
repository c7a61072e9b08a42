"""Several processes that train one network: the first speaks to the trial, the others follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import TypeVar
from typing import cast

import optuna
import torch.distributed as dist

_T = TypeVar("_T")


def together(is_first: bool, broadcast: Callable[[Any], Any], decide: Callable[[], _T]) -> _T:
    """What the first of several processes has decided, or raised, in all of them.

    Args:
        is_first: Whether this is the first process.
        broadcast: Returns, in all processes, what the first one gives it.
        decide: Runs in the first process alone; its result travels.

    Raises:
        optuna.TrialPruned: In all processes, if ``decide`` has raised it.
        RuntimeError: In the others, if ``decide`` has raised something else.

    Example:
        >>> together(True, lambda decided: decided, lambda: 3)
        3
    """
    raised: BaseException | None = None
    outcome: tuple[str, Any] = ("", None)
    if is_first:
        try:
            outcome = ("done", decide())
        except optuna.TrialPruned as pruned:
            raised, outcome = pruned, ("pruned", str(pruned))
        # The others would wait for this process for ever, whatever it is.
        except BaseException as error:
            raised, outcome = error, ("failed", f"{type(error).__name__}: {error}")
    how, what = broadcast(outcome)
    if raised is not None:
        raise raised
    if how == "pruned":
        raise optuna.TrialPruned(what)
    if how == "failed":
        raise RuntimeError(f"The first process has failed: {what}")
    return cast(_T, what)


def from_first(thing: Any) -> Any:
    """What the first process gives, in all of them.

    Example:
        >>> from_first(3)
        3
    """
    if not is_one_of_many():
        return thing
    message = [thing]
    dist.broadcast_object_list(message)
    return message[0]


def is_one_of_many() -> bool:
    """Whether other processes train the same network.

    Example:
        >>> is_one_of_many()
        False
    """
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def check_trials(name: str | None) -> None:
    """Refuse a search in each process: their networks would have hyperparameters of their own.

    Args:
        name: `name_of` the trial of this process; None where it has none.

    Raises:
        ValueError: In all processes, if the first has none, or another one has another.

    Example:
        >>> check_trials(name_of(trial))
    """
    names: list[str | None] = [name]
    if is_one_of_many():
        names = [None] * dist.get_world_size()
        dist.all_gather_object(names, name)
    if names[0] is None or any(other not in (None, names[0]) for other in names):
        raise ValueError(
            "Expected the trial of the first process, and the same one or None in the others, "
            f"but got {names}. Lightning's strategy='ddp' runs the whole script once for each "
            "device, each with a search of its own: use strategy='ddp_spawn', or start the script "
            "with torchrun and search in the first process alone."
        )


def name_of(trial: optuna.trial.BaseTrial | None) -> str | None:
    """What tells a trial from others in other processes.

    Example:
        >>> name_of(optuna.trial.FixedTrial({}))
        'FixedTrial 0'
    """
    if trial is None:
        return None
    if not isinstance(trial, optuna.Trial):
        return f"{type(trial).__name__} {trial.number}"
    return f"'{trial.study.study_name}' {trial.number}"
