"""``optuna-aelle doctor``: is this machine, this storage, this study as it should be?"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_aelle.cli.arguments import add_source
from optuna_aelle.cli.outputs import notes
from optuna_aelle.cli.outputs import one_line
from optuna_aelle.cli.outputs import print_json
from optuna_aelle.cli.outputs import printable

if TYPE_CHECKING:
    from optuna_aelle.decisions.diagnosis import Finding

_SECONDS = 8.0

NAME = "doctor"
HELP = "is all as it should be, and what happened to a study?"
DESCRIPTION = (
    "Check this machine; a storage, if one is given; and what happened to its study. Each line is "
    "ok, a note, or a problem with what to do about it. The exit status is 1 where there is a "
    "problem."
)
EXAMPLES = """\
  optuna-aelle doctor sqlite:///my.db --study-name NAME
  optuna-aelle doctor sqlite:///my.db --checkpoints checkpoints
  optuna-aelle doctor --json
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Those of `doctor`."""
    add_source(command, optional=True)
    command.add_argument(
        "--checkpoints",
        type=Path,
        metavar="FOLDER",
        help="where the checkpoints of the study should be",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(options: argparse.Namespace) -> int:
    """Print what was found."""
    if options.source is None and (options.study_name or options.checkpoints):
        raise ValueError("--study-name and --checkpoints expect a storage beside them, got none.")
    if options.checkpoints is not None and not options.checkpoints.is_dir():
        raise ValueError(
            f"--checkpoints expects a folder, but {str(options.checkpoints)!r} is none."
        )
    # Beside everything else; where nothing is compiled yet, it takes too long to be waited for.
    deadline = time.monotonic() + _SECONDS
    known = [sys.executable, "-m", "optuna_aelle.cli.known"]
    with (
        subprocess.Popen(known, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as compiled,
        notes(),
    ):
        try:
            found = _found(options, compiled, deadline)
        finally:
            compiled.kill()
    levels = [finding.level for findings in found.values() for finding in findings]
    n_problems, n_notes = levels.count("problem"), levels.count("note")
    if options.json:
        listed = [{"about": part, **asdict(x)} for part, of_part in found.items() for x in of_part]
        print_json({"findings": listed, "problems": n_problems, "notes": n_notes})
    else:
        for part, findings in found.items():
            print(printable(part))
            for finding in findings:
                print(printable(_lines(finding)))
            print()
        print(f"{_count(n_problems, 'problem')}, {_count(n_notes, 'note')}.")
    return 1 if n_problems else 0


def _found(
    options: argparse.Namespace, compiled: subprocess.Popen[bytes], deadline: float
) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    if options.source is not None:
        from optuna_aelle.cli.stores import of_source

        # Before all else: a name that is wrong should be heard of at once.
        found = of_source(options.source, options.study_name, options.checkpoints)
    return {"machine": _of_machine(compiled, deadline), **found}


def _of_machine(compiled: subprocess.Popen[bytes], deadline: float) -> list[Finding]:
    try:
        from optuna_aelle.cli.machine import of_machine
    except Exception as error:
        # A package that is there and cannot be loaded is what somebody asks a doctor about; it may
        # raise anything, such as NumPy where it is of another version than was compiled against.
        from optuna_aelle.decisions.diagnosis import Finding

        said = f"a package cannot be imported ({type(error).__name__}: {one_line(error)})"
        advice = "Install it anew; on Linux, a library of the system may be missing."
        return [Finding("problem", "versions", said, advice)]
    return of_machine(compiled, deadline)


def _lines(finding: Finding) -> str:
    said = f"  {finding.level:8}{finding.subject}: {finding.message}"
    return f"{said}\n          {finding.advice}" if finding.advice else said


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
