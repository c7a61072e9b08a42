"""What training changes, as it is written to a file and read back."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from typing import Any

from optuna_aelle._warnings import warn_once

# What is larger is written by way of a file.
IN_MEMORY = 64 * 2**20


def check_states(states: Mapping[str, Any]) -> None:
    """Say what is wrong with the states that somebody wants to have saved.

    Raises:
        TypeError: One is of a kind that cannot be saved.
        ValueError: There are none.

    Example:
        >>> check_states({"model": nn.Linear(2, 1)})
    """
    if not states:
        raise ValueError(
            "Expected what training changes, such as model=..., optimizer=..., got nothing to "
            "save."
        )
    for name, state in states.items():
        if not _is_state(state):
            raise TypeError(
                f"Expected of {name!r} something with state_dict and load_state_dict, or a "
                f"torch.Generator, but got {type(state).__name__}. Put it into one that has."
            )
    _warn_of_what_is_missing(states)


def _warn_of_what_is_missing(states: Mapping[str, Any]) -> None:
    """Warn once where an optimizer trains what is not saved: it would go on with other weights."""
    import torch

    modules = [state for state in states.values() if isinstance(state, torch.nn.Module)]
    saved = {id(parameter) for module in modules for parameter in module.parameters()}
    for name, state in states.items():
        if not modules or not isinstance(state, torch.optim.Optimizer):
            continue
        trained = [p for group in state.param_groups for p in group["params"]]
        missing = sum(id(parameter) not in saved for parameter in trained)
        if missing:
            warn_once(
                f"not saved:{name}",
                f"{missing} of the {len(trained)} parameters that {name!r} trains are in none of "
                "the states that are saved: a network that goes on would begin with new ones. "
                "Pass their modules, too, such as head=head.",
            )


def _is_state(state: Any) -> bool:
    import torch

    if isinstance(state, torch.Generator):
        return True
    return hasattr(state, "state_dict") and hasattr(state, "load_state_dict")


def state_of(state: Any) -> Any:
    """What is to be saved of one.

    Example:
        >>> sorted(state_of(nn.Linear(2, 1)))
        ['bias', 'weight']
    """
    import torch

    return state.get_state() if isinstance(state, torch.Generator) else state.state_dict()


def restore_state(state: Any, kept: Any) -> None:
    """Bring one to where it was when `state_of` was asked.

    Example:
        >>> restore_state(nn.Linear(2, 1), state_of(nn.Linear(2, 1)))
    """
    import torch

    if isinstance(state, torch.Generator):
        state.set_state(kept)
    else:
        state.load_state_dict(kept)


def read_states(file: Any) -> Any:
    """What was saved, and nothing that could run code.

    Example:
        >>> torch.save({"epoch": 3}, "states.pt")
        >>> with open("states.pt", "rb") as file:
        ...     read_states(file)
        {'epoch': 3}
    """
    import torch

    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as seekable:
        # Stores in a network hand out streams that cannot seek, as torch must.
        while chunk := file.read(2**20):
            seekable.write(chunk)
        # What torch has written is as large as it says. An archive that is compressed, or a pickle
        # without one, is not of its making.
        size = seekable.tell()
        with zipfile.ZipFile(seekable) as archive:
            if sum(member.file_size for member in archive.infolist()) > size:
                raise ValueError("it would unpack to more than it is")
        seekable.seek(0)
        return torch.load(seekable, map_location="cpu", weights_only=True)
