"""The command line: ``optuna-aelle COMMAND``; each command is a module of its own.

A command has a name, what ``--help`` says of it, ``add_arguments`` and ``run``. Whatever is heavy
is imported within ``run``, so that ``--help`` and mistakes need no Torch.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager

import optuna_aelle
from optuna_aelle.cli import doctor
from optuna_aelle.cli import explain
from optuna_aelle.cli import learn
from optuna_aelle.cli import plots
from optuna_aelle.cli import race
from optuna_aelle.cli import replay
from optuna_aelle.cli.arguments import Parser
from optuna_aelle.cli.arguments import whole_number
from optuna_aelle.cli.outputs import one_line

__all__ = ["main", "whole_number"]

_COMMANDS = (replay, race, explain, plots, learn, doctor)
_UNHEARD_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0; 1 where `doctor` found a problem, or where something failed that is no
        mistake of the caller's; 2 where the command was used wrongly, which includes a storage
        that cannot be read; 130 where it was broken off.

    Args:
        arguments: Without the name of the program; those of the process by default.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of arms have Greek letters, names of studies anything.
            stream.reconfigure(errors="backslashreplace")
    try:
        with _heard_interruptions():
            options = _parser().parse_args(arguments)
            status: int = options.run(options)
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        print("optuna-aelle: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Who reads has enough (`| head`); Python would flush the rest at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # Of a storage it is one of these, too (`sources.reading`).
        wrong = isinstance(error, ValueError | OSError)
        if os.environ.get("AELLE_TRACEBACK"):
            raise
        said = one_line(error)
        if not wrong:
            said = (
                f"internal error, {type(error).__name__}: {said} (AELLE_TRACEBACK=1 shows where; "
                "please report it)"
            )
        print(f"optuna-aelle: {said}", file=sys.stderr)
        return 2 if wrong else 1


@contextmanager
def _heard_interruptions() -> Iterator[None]:
    """Interrupt again after a second: what is raised within a destructor Python drops."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    heard &= threading.current_thread() is threading.main_thread()
    if not heard or not hasattr(signal, "setitimer"):
        yield
        return

    over = False

    def interrupt(number: int, frame: object) -> None:
        if over:
            return
        signal.setitimer(signal.ITIMER_REAL, _UNHEARD_SECONDS)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        # An alarm from here on would end the program with a signal, and not with its status.
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, before)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="optuna-aelle",
        description="Lyapunov spectra of recurrent networks for Optuna.",
        epilog="examples:\n"
        + "".join(command.EXAMPLES.splitlines(keepends=True)[0] for command in _COMMANDS)
        + "\noptuna-aelle COMMAND --help says more, with examples of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"optuna-aelle {optuna_aelle.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        added = commands.add_parser(
            command.NAME,
            help=command.HELP,
            description=textwrap.fill(command.DESCRIPTION, 79),
            epilog=f"examples:\n{command.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(added)
        added.set_defaults(run=command.run)
    return parser
