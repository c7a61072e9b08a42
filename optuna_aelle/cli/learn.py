"""``optuna-aelle learn``: a prior of one's own, from studies that are over."""

from __future__ import annotations

import argparse
from pathlib import Path

from optuna_aelle.cli.outputs import check_file
from optuna_aelle.cli.outputs import notes

NAME = "learn"
HELP = "learn a prior from studies that are over, for the next one"
DESCRIPTION = (
    "Learn from studies with one objective what the next one can begin with: "
    'AeLLESampler(prior="my.prior"); the pruner beside it goes by the same.'
)
EXAMPLES = """\
  optuna-aelle learn sqlite:///my.db --output my.prior
  optuna-aelle learn sqlite:///my.db my.npz --study-name gru --output my.prior
  optuna-aelle learn new.npz --base my.prior --knob my_lr=learning_rate --output my.prior
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Those of `learn`."""
    command.add_argument(
        "sources",
        metavar="STORAGE_OR_TABLE",
        nargs="+",
        help="storage URLs, journal files (.log, .journal) or tables (.npz)",
    )
    command.add_argument(
        "--study-name",
        metavar="NAME",
        action="append",
        help="learn from this study of the storages alone; may be repeated (default: from all)",
    )
    command.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="where to save the prior"
    )
    command.add_argument(
        "--base",
        default="pretrained",
        metavar="PRIOR",
        help="what to add to: pretrained, none, or the path of a prior (default: %(default)s)",
    )
    command.add_argument(
        "--knob",
        metavar="OWN=COMMON",
        action="append",
        default=[],
        help="a parameter of your own and its common name; may be repeated",
    )


def run(options: argparse.Namespace) -> int:
    """Learn, save, and say from what."""
    check_file("--output", options.output)
    knobs = dict(map(_pair, options.knob))
    from optuna_aelle.cli.lessons import fetch
    from optuna_aelle.cli.lessons import what_was_learned
    from optuna_aelle.prediction.knobs import check_knobs
    from optuna_aelle.prediction.prior import Prior
    from optuna_aelle.prediction.prior import as_prior

    check_knobs(knobs)
    if options.base not in ("pretrained", "none") and not Path(options.base).is_file():
        raise ValueError(
            "--base expects pretrained, none, or the path of a prior, but there is no file "
            f"{options.base!r}."
        )
    with notes():
        base = as_prior(None if options.base == "none" else options.base)
        studies = fetch(options.sources, options.study_name)
        prior = Prior.learn(studies, base, knobs=knobs)
        prior.save(options.output)
    print(what_was_learned(prior, base, studies, knobs))
    print(f"Prior: {options.output}")
    return 0


def _pair(text: str) -> tuple[str, str]:
    own, equals, common = text.partition("=")
    if not (own and equals and common):
        raise ValueError(
            f"--knob expects OWN=COMMON, such as my_lr=learning_rate, but got {text!r}."
        )
    return own, common
