"""What `replay` and `race` have in common: where trials come from, where results go."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_aelle.cli.arguments import add_source
from optuna_aelle.cli.arguments import nonnegative
from optuna_aelle.cli.arguments import positive
from optuna_aelle.cli.outputs import PICTURES
from optuna_aelle.cli.outputs import check_file
from optuna_aelle.cli.outputs import write_figure

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from optuna_aelle.trials.table import RecordedTrials


def add_backtest_arguments(command: argparse.ArgumentParser, kind: str) -> None:
    """Those of both."""
    add_source(command)
    command.add_argument(
        "--trials", type=positive, metavar="N", help=f"configurations a {kind} (default: all)"
    )
    command.add_argument(
        "--repeats",
        type=positive,
        default=10,
        metavar="N",
        help="random orders (default: %(default)s)",
    )
    command.add_argument(
        "--seed",
        type=nonnegative,
        default=0,
        metavar="N",
        help="of the orders (default: %(default)s)",
    )
    command.add_argument(
        "--figure",
        type=Path,
        default=Path(f"{kind}.html"),
        metavar="FILE",
        help="where to draw the comparison, .html or .png (default: %(default)s)",
    )
    command.add_argument("--csv", type=Path, metavar="FILE", help="also write all rows as CSV")
    command.add_argument(
        "--save", type=Path, metavar="FILE", help="also keep the trials as a table (.npz)"
    )


def load(options: argparse.Namespace) -> RecordedTrials:
    """The trials, once it is sure that results can be written."""
    check_file("--figure", options.figure, PICTURES)
    check_file("--csv", options.csv)
    check_file("--save", options.save)
    from optuna_aelle.cli.sources import load_table

    recorded = load_table(options.source, options.study_name)
    if options.save is not None:
        recorded.save(options.save)
    return recorded


def finish(
    recorded: RecordedTrials, frame: pd.DataFrame, figure: go.Figure, options: argparse.Namespace
) -> None:
    """Write the files; says so where all was decided without spectra."""
    from optuna_aelle._warnings import warn_once
    from optuna_aelle.trials.attributes import decode_spectra

    if not any(decode_spectra(trial) for trial in recorded.trials):
        warn_once(
            f"no spectra:{recorded.name}",
            "No spectra were recorded: AeLLE decided from curves and hyperparameters alone.",
        )
    if options.csv is not None:
        frame.to_csv(options.csv, index=False)
    write_figure(options.figure, figure, f"{recorded.name}: {options.figure.stem}")
