"""The command line: ``optuna-aelle replay sqlite:///my.db --study-name NAME``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import optuna
from optuna.exceptions import StorageInternalError
from optuna.pruners import BasePruner
from optuna.pruners import HyperbandPruner
from optuna.pruners import MedianPruner
from optuna.pruners import NopPruner
from optuna.pruners import PercentilePruner
from optuna.pruners import SuccessiveHalvingPruner
from sqlalchemy.exc import SQLAlchemyError

from optuna_aelle._warnings import AeLLEWarning
from optuna_aelle.backtest.replay import replay
from optuna_aelle.decisions.pruner import AeLLEPruner
from optuna_aelle.decisions.pruner import report_spacing
from optuna_aelle.trials.attributes import SPECTRUM_PREFIX
from optuna_aelle.trials.table import RecordedTrials

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = ("epochs_share", "regret", "best_kept", "best_value", "overhead_share")


def default_pruners(
    first_step: int, spacing: int, last_step: int
) -> dict[str, Callable[[], BasePruner]]:
    """What a study is replayed under: no pruner, Optuna's with their usual settings, and ours.

    Args:
        first_step: The step of a trial's first report.
        spacing: Steps from one report to the next.
        last_step: That of its last one.
    """
    return {
        "none": NopPruner,
        "Median": MedianPruner,
        "Median, warm-up 5": partial(MedianPruner, n_warmup_steps=first_step + 5 * spacing),
        "Percentile 25": partial(PercentilePruner, 25.0),
        "SHA η=2": partial(SuccessiveHalvingPruner, min_resource=spacing, reduction_factor=2),
        "SHA η=4": partial(SuccessiveHalvingPruner, min_resource=spacing, reduction_factor=4),
        "Hyperband": partial(
            HyperbandPruner,
            min_resource=spacing,
            max_resource=max(last_step, spacing),
            reduction_factor=3,
        ),
        "AeLLE": AeLLEPruner,
    }


def compare(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the repeats, one row a pruner, in the order of the replay."""
    return frame.groupby("pruner", sort=False)[list(_SHOWN)].mean()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parse(arguments)
    try:
        recorded = _load(options.source, options.study_name)
        return _replay(recorded, options)
    except (ValueError, OSError, BadZipFile, SQLAlchemyError, StorageInternalError) as error:
        print(f"optuna-aelle: {error}", file=sys.stderr)
        return 2


def _replay(recorded: RecordedTrials, options: argparse.Namespace) -> int:
    if options.save is not None:
        recorded.save(options.save)
    steps = recorded.steps
    pruners = default_pruners(steps[0], report_spacing(recorded.trials), steps[-1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AeLLEWarning)
        frame = replay(
            recorded,
            pruners,
            n_trials=options.trials,
            n_repeats=options.repeats,
            seed=options.seed,
            show_progress_bar=True,
        )
    for message in {str(w.message) for w in caught if issubclass(w.category, AeLLEWarning)}:
        print(f"Note: {message}\n")
    print(f"{recorded.name}: {len(recorded)} trials, {recorded.direction}, in random orders.\n")
    print(compare(frame).to_string(float_format=lambda x: f"{x:.4g}"))
    print(
        "\nepochs_share: training done, the method's own seconds included; 1 is no pruning.\n"
        "regret: how far the best of the kept trials lies behind the best there was; 1 is the "
        "median."
    )
    if not any(key.startswith(SPECTRUM_PREFIX) for t in recorded.trials for key in t.user_attrs):
        print("No spectra were recorded: AeLLE decided from curves and hyperparameters alone.")
    if options.csv is not None:
        frame.to_csv(options.csv, index=False)
    from optuna_aelle.visualization import plot_replay

    plot_replay(frame, title=recorded.name).write_html(options.figure)
    print(f"Figure: {options.figure}")
    return 0


def _load(source: str, study_name: str | None) -> RecordedTrials:
    if source.endswith(".npz"):
        return RecordedTrials.load(source)
    if "://" not in source:
        raise ValueError(
            f"Expected a storage URL such as sqlite:///my.db, or a table (.npz), got {source!r}."
        )
    path = source.removeprefix("sqlite:///").partition("?")[0]
    if source.startswith("sqlite:///") and not Path(path).exists():
        raise ValueError(f"There is no file {path!r}.")
    names = optuna.get_all_study_names(source)
    if study_name is None and len(names) == 1:
        study_name = names[0]
    if study_name not in names:
        what = "no --study-name" if study_name is None else repr(study_name)
        raise ValueError(f"Expected one of the studies {sorted(names)}, got {what}.")
    return RecordedTrials.from_study(optuna.load_study(study_name=study_name, storage=source))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="optuna-aelle", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "replay",
        help="how much would each pruner have saved on a finished study?",
        description="Replay the trials of a finished study under several pruners.",
    )
    command.add_argument("source", help="storage URL of the study, or a table (.npz)")
    command.add_argument("--study-name", help="may be left out if the storage holds one study")
    command.add_argument("--trials", type=int, help="configurations a replay; all by default")
    command.add_argument("--repeats", type=int, default=10, help="random orders")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--figure", type=Path, default=Path("replay.html"))
    command.add_argument("--csv", type=Path, help="also write one row a pruner and order")
    command.add_argument("--save", type=Path, help="also keep the trials as a table (.npz)")
    return parser.parse_args(arguments)
