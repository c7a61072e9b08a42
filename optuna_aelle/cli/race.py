"""``optuna-aelle race``: samplers and pruners search a finished study for an equal budget."""

from __future__ import annotations

import argparse
import html
from typing import TYPE_CHECKING

from optuna_aelle.cli.arguments import positive
from optuna_aelle.cli.backtests import add_backtest_arguments
from optuna_aelle.cli.backtests import finish
from optuna_aelle.cli.backtests import load
from optuna_aelle.cli.outputs import notes
from optuna_aelle.cli.outputs import on_a_terminal
from optuna_aelle.cli.outputs import printable

if TYPE_CHECKING:
    import pandas as pd

    from optuna_aelle.trials.table import RecordedTrials

NAME = "race"
HELP = "which search finds the best of a finished study for an equal budget?"
DESCRIPTION = "Let samplers and pruners race over the trials of a finished study."
EXAMPLES = """\
  optuna-aelle race sqlite:///my.db --study-name NAME
  optuna-aelle race my.npz --trainings 6 --repeats 20 --figure race.html
"""
# What is shown of a race, in shares of its budget; and the most that it spends by default.
_MARKS = (0.25, 0.5, 1.0)
_MOST_TRAININGS, _SHARE_OF_ALL = 12, 0.25


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Those of `race`."""
    add_backtest_arguments(command, NAME)
    command.add_argument(
        "--trainings",
        type=positive,
        metavar="N",
        help="whole trainings that each may spend (default: 12, or a quarter of all if less)",
    )


def run(options: argparse.Namespace) -> int:
    """Race, write the figure, print the table."""
    with notes():
        recorded = load(options)
        # After what may be wrong, which should be heard of at once.
        from optuna_aelle.backtest.arms import Steps
        from optuna_aelle.backtest.arms import shown_search_arms
        from optuna_aelle.backtest.race import race
        from optuna_aelle.visualization import plot_race

        trainings = options.trainings or _trainings(recorded, options.trials)
        budget = trainings * int(recorded.trained_steps.max())
        frame = race(
            recorded,
            shown_search_arms(Steps.of(recorded)),
            budget=budget,
            n_repeats=options.repeats,
            n_configs=options.trials,
            seed=options.seed,
            show_progress_bar=on_a_terminal(),
        )
        name = printable(recorded.name)
        finish(recorded, frame, plot_race(frame, title=html.escape(name)), options)
    print(
        f"{name}: {len(recorded)} trials, {recorded.direction}; every arm spends "
        f"{budget} epochs, {trainings} whole training{'s' if trainings > 1 else ''}, on "
        "configurations of its choice.\n"
    )
    print(ends_of(frame).to_string(float_format=lambda x: f"{x:.3f}"))
    print(
        "\nfinal: how far the best network trained to its end lies behind the best there was, "
        "after so many epochs:\n0 is the best, 1 the median or worse, or nothing yet. seen: the "
        "same of the best value at any epoch.\nThe method's own seconds count as epochs. ASHA "
        "goes on with what it has stopped, which needs checkpoints.\n"
        f"Means of {options.repeats} orders: small differences are chance."
    )
    print(f"Figure: {options.figure}")
    return 0


def ends_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean regrets of a race at a quarter, a half and the whole of its budget."""
    import pandas as pd

    epochs = frame["epochs"].unique()
    columns = {}
    for kind in ("final", "seen"):
        for mark in _MARKS:
            # What there was by then: rows lie a ninth of a training apart.
            at = epochs[epochs <= mark * epochs.max() + 1e-6].max()
            part = frame[frame["epochs"] == at].groupby("arm", sort=False)[f"regret_{kind}"]
            columns[f"{kind} {mark * epochs.max():.0f}"] = part.mean()
    return pd.DataFrame(columns)


def _trainings(recorded: RecordedTrials, n_configs: int | None) -> int:
    steps = recorded.trained_steps
    of = min(n_configs or len(recorded), len(recorded))
    return max(1, min(_MOST_TRAININGS, int(_SHARE_OF_ALL * of * steps.mean() / steps.max())))
