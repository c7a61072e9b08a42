"""Arguments that several commands take, and what their mistakes sound like."""

from __future__ import annotations

import argparse
from typing import NoReturn

from optuna_aelle.cli.outputs import one_line

_SOURCE = (
    "where the study is: a storage URL (sqlite:///my.db, postgresql://..., mysql://..., "
    "redis://..., grpc://HOST:PORT), a journal file (.log, .journal), or a table (.npz)"
)


class Parser(argparse.ArgumentParser):
    """Says what was wrong in one line, without the usage, which takes several."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message)} (--help shows how)\n")


def add_source(command: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """The study that a command is about."""
    command.add_argument(
        "source", metavar="STORAGE", nargs="?" if optional else None, help=_SOURCE
    )
    add_study_name(command)


def add_study_name(command: argparse.ArgumentParser) -> None:
    """Its name, which may be left out or shortened."""
    command.add_argument(
        "--study-name",
        metavar="NAME",
        help="or how it begins, where only one begins so; may be left out if there is one study",
    )


def positive(text: str) -> int:
    """An argument that is an integer of at least 1."""
    return whole_number(text, least=1)


def nonnegative(text: str) -> int:
    """An argument that is an integer of at least 0."""
    return whole_number(text, least=0)


def whole_number(text: str, least: int) -> int:
    """An argument that is an integer of at least ``least``."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got {text}")
    return value
