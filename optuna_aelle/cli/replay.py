"""``optuna-aelle replay``: the trials of a finished study under several pruners."""

from __future__ import annotations

import argparse
import html
from typing import TYPE_CHECKING

from optuna_aelle.cli.backtests import add_backtest_arguments
from optuna_aelle.cli.backtests import finish
from optuna_aelle.cli.backtests import load
from optuna_aelle.cli.outputs import notes
from optuna_aelle.cli.outputs import on_a_terminal
from optuna_aelle.cli.outputs import printable

if TYPE_CHECKING:
    import pandas as pd

NAME = "replay"
HELP = "how much would each pruner have saved on a finished study?"
DESCRIPTION = "Replay the trials of a finished study under several pruners."
EXAMPLES = """\
  optuna-aelle replay sqlite:///my.db --study-name NAME
  optuna-aelle replay sqlite:///my.db --repeats 30 --figure replay.html --save my.npz
  optuna-aelle replay my.npz --trials 40 --csv replay.csv
"""
_SHOWN = ("epochs_share", "regret", "best_kept", "best_value", "overhead_share")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Those of `replay`."""
    add_backtest_arguments(command, NAME)


def run(options: argparse.Namespace) -> int:
    """Replay, write the figure, print the table."""
    with notes():
        recorded = load(options)
        # After what may be wrong, which should be heard of at once.
        from optuna_aelle.backtest.arms import Steps
        from optuna_aelle.backtest.arms import shown_arms
        from optuna_aelle.backtest.replay import replay
        from optuna_aelle.visualization import plot_replay

        frame = replay(
            recorded,
            shown_arms(Steps.of(recorded)),
            n_trials=options.trials,
            n_repeats=options.repeats,
            seed=options.seed,
            show_progress_bar=on_a_terminal(),
        )
        name = printable(recorded.name)
        finish(recorded, frame, plot_replay(frame, title=html.escape(name)), options)
    print(f"{name}: {len(recorded)} trials, {recorded.direction}, in random orders.\n")
    print(compare(frame).to_string(float_format=lambda x: f"{x:.4g}"))
    print(
        "\nepochs_share: training done, the method's own seconds included; 1 is no pruning.\n"
        "regret: how far the best of the kept trials lies behind the best there was; 1 is the "
        "median.\n"
        "best_kept: how often the best there was ran to its end. best_value: the best kept, on "
        "average.\n"
        "overhead_share: the method's own seconds alone, as a share of full training."
    )
    print(f"Figure: {options.figure}")
    return 0


def compare(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the repeats, one row a pruner, in the order of the replay."""
    return frame.groupby("pruner", sort=False)[list(_SHOWN)].mean()
