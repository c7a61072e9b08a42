"""``optuna-aelle explain``: what was expected of a trial, and why it was stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from optuna_aelle.cli.arguments import add_source
from optuna_aelle.cli.arguments import nonnegative
from optuna_aelle.cli.outputs import PICTURES
from optuna_aelle.cli.outputs import check_file
from optuna_aelle.cli.outputs import notes
from optuna_aelle.cli.outputs import print_json
from optuna_aelle.cli.outputs import printable
from optuna_aelle.cli.outputs import write_figure

NAME = "explain"
HELP = "why was a trial stopped, and what was expected of it?"
DESCRIPTION = (
    "Explain a trial: its forecast and interval, the bar that it was held against, what spoke, "
    "and its spectrum beside the best one's."
)
EXAMPLES = """\
  optuna-aelle explain sqlite:///my.db --study-name NAME --trial 17
  optuna-aelle explain sqlite:///my.db --trial 17 --figure trial.html
  optuna-aelle explain my.log --trial 17 --json
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Those of `explain`."""
    add_source(command)
    command.add_argument(
        "--trial", type=nonnegative, required=True, metavar="N", help="its number"
    )
    command.add_argument(
        "--objective",
        type=nonnegative,
        default=0,
        metavar="N",
        help="which one, where the study has several, counted from 0 (default: %(default)s)",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    command.add_argument(
        "--figure", type=Path, metavar="FILE", help="also draw it, as .html or .png"
    )


def run(options: argparse.Namespace) -> int:
    """Print what is known of a trial."""
    check_file("--figure", options.figure, PICTURES)
    from optuna_aelle.cli.sources import load_study
    from optuna_aelle.cli.sources import reading

    with notes(), reading(options.source):
        study = load_study(options.source, options.study_name)
        from optuna_aelle.decisions.explanation import explain_trial

        explanation = explain_trial(study, options.trial, objective=options.objective)
        if options.figure is not None:
            from optuna_aelle.visualization._trial import draw_trial

            title = f"{study.study_name}, trial {options.trial}"
            write_figure(options.figure, draw_trial(explanation), title)
    if options.json:
        print_json(explanation.as_dict())
        return 0
    print(printable(explanation.text()))
    if options.figure is not None:
        print(f"Figure: {options.figure}")
    return 0
