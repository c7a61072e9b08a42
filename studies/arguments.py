"""Types of command-line arguments: a mistake is said when they are read, and in one line."""

from __future__ import annotations

import argparse

import optuna
import torch
from optuna.exceptions import OptunaError
from sqlalchemy.exc import SQLAlchemyError

from optuna_aelle.cli import whole_number
from optuna_aelle.trials.patience import opened
from studies.cells import CELLS
from studies.cells import SYNONYMS


def positive(text: str) -> int:
    """An integer of at least 1."""
    return whole_number(text, least=1)


def nonnegative(text: str) -> int:
    """An integer of at least 0."""
    return whole_number(text, least=0)


def n_jobs(text: str) -> int:
    """As Optuna counts them: at least 1, or −1 for one a core."""
    if text.strip() == "-1":
        return -1
    try:
        return whole_number(text, least=1)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"expected at least 1, or -1 for one a core, got {text}"
        ) from None


def cells(text: str) -> tuple[str, ...]:
    """Names of recurrences, separated by commas; whatever their order, in that of `CELLS`."""
    named = [name.strip().lower() for name in text.split(",")]
    found = {SYNONYMS.get(name, name) for name in named}
    unknown = ", ".join(dict.fromkeys(repr(n) for n in named if SYNONYMS.get(n, n) not in CELLS))
    if unknown:
        raise argparse.ArgumentTypeError(
            f"expected names among {', '.join(CELLS)}, separated by commas, got {unknown}"
        )
    return tuple(name for name in CELLS if name in found)


def device(text: str) -> torch.device:
    """A device of this machine that torch can compute on."""
    try:
        found = torch.device(text)
        # Only a tensor tells: torch knows many devices that this build or machine lacks.
        torch.ones(1, device=found).add_(1.0).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        available = ", ".join(_available())
        raise argparse.ArgumentTypeError(
            f"expected a device that torch can use here ({available}), got {text}"
        ) from error
    return found


def storage_url(text: str) -> str:
    """The URL of a storage that Optuna can open; a database file that is missing is made."""
    try:
        opened(lambda: optuna.storages.get_storage(text))
    except (SQLAlchemyError, OptunaError, ImportError, RuntimeError, ValueError) as error:
        # Databases go on with queries and links.
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise argparse.ArgumentTypeError(
            f"expected a storage that Optuna can open, such as sqlite:///aelle.db: {said}"
        ) from error
    return text


def _available() -> list[str]:
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return [*devices, "mps"] if torch.backends.mps.is_available() else devices
