"""The command line: ``optuna-aelle replay`` and ``race``, of a finished study of one's own."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
import zlib
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from typing import NoReturn
from zipfile import BadZipFile

import optuna
from optuna.exceptions import OptunaError
from sqlalchemy.exc import SQLAlchemyError

from optuna_aelle._warnings import AeLLEWarning
from optuna_aelle.backtest.arms import Steps
from optuna_aelle.backtest.arms import shown_arms
from optuna_aelle.backtest.arms import shown_search_arms
from optuna_aelle.backtest.race import race
from optuna_aelle.backtest.replay import replay
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.table import RecordedTrials

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_SHOWN = ("epochs_share", "regret", "best_kept", "best_value", "overhead_share")
_EXAMPLES = """\
examples:
  optuna-aelle replay sqlite:///my.db --study-name NAME
  optuna-aelle replay sqlite:///my.db --repeats 30 --figure replay.html --save my.npz
  optuna-aelle replay my.npz --trials 40 --csv replay.csv
"""
_RACE_EXAMPLES = """\
examples:
  optuna-aelle race sqlite:///my.db --study-name NAME
  optuna-aelle race my.npz --trainings 6 --repeats 20 --figure race.html
"""
# What is shown of a race, in shares of its budget; and the most that it spends by default.
_MARKS = (0.25, 0.5, 1.0)
_MOST_TRAININGS, _SHARE_OF_ALL = 12, 0.25


def compare(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the repeats, one row a pruner, in the order of the replay."""
    return frame.groupby("pruner", sort=False)[list(_SHOWN)].mean()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 2 where it was used wrongly, 130 if broken off."""
    options = _parse(arguments)
    try:
        _check_outputs(options)
        recorded = _load(options.source, options.study_name)
        if options.save is not None:
            recorded.save(options.save)
        return _race(recorded, options) if options.race else _replay(recorded, options)
    except (ValueError, OSError) as error:
        print(f"optuna-aelle: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("optuna-aelle: interrupted.", file=sys.stderr)
        return 130


def _replay(recorded: RecordedTrials, options: argparse.Namespace) -> int:
    with _notes():
        frame = replay(
            recorded,
            shown_arms(Steps.of(recorded)),
            n_trials=options.trials,
            n_repeats=options.repeats,
            seed=options.seed,
            show_progress_bar=True,
        )
    print(f"{recorded.name}: {len(recorded)} trials, {recorded.direction}, in random orders.\n")
    print(compare(frame).to_string(float_format=lambda x: f"{x:.4g}"))
    print(
        "\nepochs_share: training done, the method's own seconds included; 1 is no pruning.\n"
        "regret: how far the best of the kept trials lies behind the best there was; 1 is the "
        "median.\n"
        "best_kept: how often the best there was ran to its end. best_value: the best kept, on "
        "average.\n"
        "overhead_share: the method's own seconds alone, as a share of full training."
    )
    from optuna_aelle.visualization import plot_replay

    return _finish(recorded, frame, plot_replay(frame, title=recorded.name), options)


def _race(recorded: RecordedTrials, options: argparse.Namespace) -> int:
    steps = recorded.trained_steps
    trainings = options.trainings
    if trainings is None:
        n_configs = min(options.trials or len(recorded), len(recorded))
        most = int(_SHARE_OF_ALL * n_configs * steps.mean() / steps.max())
        trainings = max(1, min(_MOST_TRAININGS, most))
    budget = trainings * int(steps.max())
    with _notes():
        frame = race(
            recorded,
            shown_search_arms(Steps.of(recorded)),
            budget=budget,
            n_repeats=options.repeats,
            n_configs=options.trials,
            seed=options.seed,
            show_progress_bar=True,
        )
    print(
        f"{recorded.name}: {len(recorded)} trials, {recorded.direction}; every arm spends "
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
    from optuna_aelle.visualization import plot_race

    return _finish(recorded, frame, plot_race(frame, title=recorded.name), options)


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


@contextmanager
def _notes() -> Iterator[None]:
    """Print each of our warnings once, after what it comes from."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AeLLEWarning)
        yield
    for message in {str(w.message) for w in caught if issubclass(w.category, AeLLEWarning)}:
        print(f"Note: {message}\n")


def _finish(
    recorded: RecordedTrials, frame: pd.DataFrame, figure: go.Figure, options: argparse.Namespace
) -> int:
    if not any(decode_spectra(trial) for trial in recorded.trials):
        print("No spectra were recorded: AeLLE decided from curves and hyperparameters alone.")
    if options.csv is not None:
        frame.to_csv(options.csv, index=False)
    figure.write_html(options.figure)
    print(f"Figure: {options.figure}")
    return 0


def _load(source: str, study_name: str | None) -> RecordedTrials:
    """The trials of a table or of a study; a ValueError or OSError says what is wrong with it."""
    if source.endswith(".npz"):
        return _load_table(source)
    if "://" not in source:
        raise ValueError(
            f"Expected a storage URL such as sqlite:///my.db, or a table (.npz), got {source!r}."
        )
    path = source.removeprefix("sqlite:///").partition("?")[0]
    if source.startswith("sqlite:///") and not Path(path).exists():
        raise ValueError(f"Expected a database in {path!r}, but there is no such file.")
    try:
        names = sorted(optuna.get_all_study_names(source))
        if not names:
            raise ValueError("Expected a storage with at least one study, but it has none.")
        if study_name is None and len(names) == 1:
            study_name = names[0]
        if study_name not in names:
            what = "no --study-name" if study_name is None else repr(study_name)
            raise ValueError(f"Expected one of the studies {names}, got {what}.")
        study = optuna.load_study(study_name=study_name, storage=source)
        return RecordedTrials.from_study(study)
    except (SQLAlchemyError, OptunaError, ImportError, RuntimeError) as error:
        # Not the whole URL, which may hold a password.
        raise ValueError(
            "Expected the URL of a storage that Optuna can open, but got one of "
            f"{source.partition('://')[0]!r} with: {_one_line(error)}"
        ) from error


def _load_table(path: str) -> RecordedTrials:
    if not Path(path).is_file():
        raise ValueError(f"Expected a table in {path!r}, but there is no such file.")
    try:
        return RecordedTrials.load(path)
    except (ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        if str(error).startswith("Expected"):
            raise
        # What numpy says of such files suggests to unpickle them.
        raise ValueError(
            f"Expected a file written by RecordedTrials.save, but {path!r} is none."
        ) from error


def _check_outputs(options: argparse.Namespace) -> None:
    """Before minutes of replaying, not after."""
    for name in ("figure", "csv", "save"):
        path: Path | None = getattr(options, name)
        if path is None:
            continue
        if path.is_dir():
            raise ValueError(f"--{name} expects a file to write, but {str(path)!r} is a folder.")
        if not path.parent.is_dir():
            raise ValueError(
                f"--{name} expects a file in a folder that exists, but there is no folder "
                f"{str(path.parent)!r}."
            )
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ValueError(f"--{name} expects a file to write, but {str(path)!r} is read-only.")


def _one_line(error: BaseException) -> str:
    """What an error says first: those of databases go on with queries and links."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[0].split())


class _Parser(argparse.ArgumentParser):
    """Says what was wrong in one line, without the usage, which takes several."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows how)\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="optuna-aelle",
        description="Lyapunov spectra of recurrent networks for Optuna.",
        epilog=f"{_EXAMPLES}{_RACE_EXAMPLES.partition(chr(10))[2]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    replaying = commands.add_parser(
        "replay",
        help="how much would each pruner have saved on a finished study?",
        description="Replay the trials of a finished study under several pruners.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    racing = commands.add_parser(
        "race",
        help="which search finds the best of a finished study for an equal budget?",
        description="Let samplers and pruners race over the trials of a finished study.",
        epilog=_RACE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    racing.add_argument(
        "--trainings",
        type=_positive,
        help="whole trainings that each may spend (default: 12, or a quarter of all if less)",
    )
    replaying.set_defaults(race=False)
    racing.set_defaults(race=True)
    for command, kind in ((replaying, "replay"), (racing, "race")):
        command.add_argument("source", help="storage URL of the study, or a table (.npz)")
        command.add_argument("--study-name", help="may be left out if the storage holds one study")
        command.add_argument(
            "--trials", type=_positive, help=f"configurations a {kind} (default: all)"
        )
        command.add_argument(
            "--repeats", type=_positive, default=10, help="random orders (default: %(default)s)"
        )
        command.add_argument(
            "--seed", type=_nonnegative, default=0, help="of the orders (default: %(default)s)"
        )
        command.add_argument(
            "--figure",
            type=Path,
            default=Path(f"{kind}.html"),
            help="where to draw the comparison (default: %(default)s)",
        )
        command.add_argument("--csv", type=Path, help="also write all rows as CSV")
        command.add_argument("--save", type=Path, help="also keep the trials as a table (.npz)")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    return whole_number(text, least=1)


def _nonnegative(text: str) -> int:
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
