"""A thousand mistakes each: of the command's arguments, and of what is replayed and raced.

AELLE_FUZZ_CASES=10000 makes ten times as many.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import math
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle import RecordedTrials
from optuna_aelle import encode_spectrum
from optuna_aelle import race
from optuna_aelle import replay
from optuna_aelle.backtest import arms
from optuna_aelle.backtest.promotion import Promotion
from optuna_aelle.cli import plots
from optuna_aelle.cli import sources
from optuna_aelle.decisions.diagnosis import Finding
from tests.cli.conftest import run
from tests.conftest import made_trials
from tests.conftest import run_synthetic

pytestmark = pytest.mark.slow

N_CASES = int(os.environ.get("AELLE_FUZZ_CASES", "1000"))
many = settings(
    max_examples=N_CASES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
# What our own errors say, and those of others do not.
OURS = re.compile(r"[Ee]xpected|must be|at least one")

odd_floats = st.one_of(
    st.floats(-2.0, 2.0), st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324])
)
sound_floats = st.one_of(st.floats(-2.0, 2.0), st.sampled_from([0.0, 1e308, -1e308, 5e-324]))
step_lists = st.sampled_from([(0, 1, 2), (0, 1), (1, 2, 3), (0,), (2, 4), (3, 10**6), (0, 2**40)])
odd_steps = st.sampled_from([-1, -5, 2**53 + 1, 2**62, 2**63, 10**30])
moments = st.one_of(
    st.none(),
    st.just(datetime.datetime(2024, 1, 1)),
    st.datetimes(datetime.datetime(1970, 1, 3), datetime.datetime(2100, 1, 1)),
)
SPACES: dict[str, tuple[BaseDistribution, st.SearchStrategy[Any]]] = {
    "x": (FloatDistribution(0.0, 1.0), st.floats(0.0, 1.0)),
    "lr": (FloatDistribution(1e-5, 1.0, log=True), st.sampled_from([1e-5, 1e-2, 1.0, 7.0])),
    "hidden_size": (IntDistribution(1, 64), st.sampled_from([1, 2, 64, 99])),
    "cell": (CategoricalDistribution(["rnn", None, 3]), st.sampled_from(["rnn", None, 3])),
}
attributes = st.sampled_from(
    [
        {},
        encode_spectrum([-0.1, -0.2, -0.9], -1, seconds=0.01),
        encode_spectrum([0.3, -math.inf], 1),
        {"aelle:spectrum:-1": {"version": 2, "exponents": "junk"}},
        {"aelle:spectrum:x": None},
        {"aelle:continues": {"version": 1, "trial": 0, "step": 1}},
    ]
)


def some(usual: Any, *odd: Any) -> st.SearchStrategy[Any]:
    """Mostly what is usual: else nothing would come as far as the second mistake."""
    return st.sampled_from([usual] * 4 * len(odd) + [*odd])


@st.composite
def trials(draw: st.DrawFn) -> FrozenTrial:
    """One that Optuna might have stored; whatever is reported may be any number."""
    names = draw(st.sampled_from([(), ("x",), ("lr", "cell"), ("x", "hidden_size", "cell")]))
    return FrozenTrial(
        number=draw(st.integers(0, 5)),
        trial_id=0,
        state=draw(some(TrialState.COMPLETE, TrialState.PRUNED)),
        value=draw(sound_floats),
        datetime_start=draw(moments),
        datetime_complete=draw(moments),
        params={name: draw(SPACES[name][1]) for name in names},
        distributions={name: SPACES[name][0] for name in names},
        user_attrs={},
        system_attrs=dict(draw(attributes)),
        intermediate_values={step: draw(odd_floats) for step in draw(step_lists)},
    )


def spoil(draw: st.DrawFn, trial: FrozenTrial) -> None:
    """What may stand in a table that somebody has made otherwise."""
    match draw(st.sampled_from(["state", "value", "values", "step", "reports", "params"])):
        case "state":
            trial.state = draw(st.sampled_from([*TrialState]))
        case "value":
            trial.value = draw(st.sampled_from([None, math.nan, math.inf, -math.inf]))
        case "values":
            trial.values = draw(st.sampled_from([[], [1.0, 2.0]]))
        case "step":
            trial.intermediate_values[draw(odd_steps)] = draw(odd_floats)
        case "reports":
            trial.intermediate_values.clear()
        case "params":
            trial.params = {"x": draw(st.sampled_from([math.nan, "text", None, -9.0]))}


@st.composite
def tables(draw: st.DrawFn) -> RecordedTrials:
    made = draw(st.lists(trials(), min_size=2, max_size=4))
    made = draw(some(made, made[:1], []))
    if made and draw(some(False, True)):
        spoil(draw, draw(st.sampled_from(made)))
    n = len(made)
    costs = draw(some(np.ones(n), np.ones(n + 1), np.full(n, math.nan), np.zeros(n), -np.ones(n)))
    return RecordedTrials(
        name=draw(some("t", "", "\ud800", "a/b<script>")),
        direction=draw(some(draw(st.sampled_from(["minimize", "maximize"])), "up", None)),
        trials=tuple(made),
        step_seconds=costs,
        curves=draw(some({}, {"score": np.zeros((n, 1))})),
    )


@contextlib.contextmanager
def only_our_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        # Optuna's pruners take means of nothing where all is NaN; we do not.
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", category=RuntimeWarning, module="optuna_aelle")
        try:
            yield
        except (TypeError, ValueError) as error:
            if not OURS.search(str(error)):
                raise


@many
@given(data=st.data())
def test_whatever_is_replayed_is_measured_or_refused(data: st.DataObject) -> None:
    chosen = {
        "none": optuna.pruners.NopPruner,
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=0),
        "halving": optuna.pruners.SuccessiveHalvingPruner,
    }
    with only_our_errors():
        recorded = data.draw(tables())
        frame = replay(
            recorded,
            {name: chosen[name] for name in data.draw(some(["none", "median"], ["halving"], []))},
            n_trials=data.draw(some(None, 0, 1, 2, -1, 10**9, math.nan, "2")),
            n_repeats=data.draw(some(1, 0, 2, -3, 1.5)),
            seed=data.draw(some(0, 7, -1, 2**70, 0.5)),
            order=data.draw(some("random", "recorded", "sideways")),
            spectrum_steps=data.draw(some(None, (), (-1,), (3,))),
        )
        assert set(frame["pruner"]) <= {*chosen}
        # A share of nothing is NaN.
        assert not (frame["epochs_share"] < 0.0).any()
        assert frame["regret"].between(0.0, 1.0).all()


def _longest(recorded: RecordedTrials) -> float:
    reached = max(max(trial.intermediate_values) for trial in recorded.trials)
    return float(reached + any(0 in trial.intermediate_values for trial in recorded.trials))


def coin(pool: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for position in range(len(pool)):
        while not pool.is_over(position) and rng.uniform() < 0.7:
            pool.train(position)


@many
@given(data=st.data())
def test_whatever_is_raced_is_measured_or_refused(data: st.DataObject) -> None:
    chosen = {
        "random": lambda: (optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()),
        "median": lambda: (optuna.samplers.RandomSampler(), optuna.pruners.MedianPruner(0)),
        "coin": lambda: coin,
        "promotion": lambda: Promotion(2),
        "lazy": lambda: lambda pool, seed: None,
    }
    with only_our_errors():
        recorded = data.draw(tables())
        names = data.draw(some(["coin"], ["random"], ["median", "promotion"], ["lazy"], []))
        frame = race(
            recorded,
            {name: chosen[name] for name in names},
            budget=data.draw(some(_longest(recorded), 0, 3, 1e9, -1.0, math.nan)),
            n_repeats=data.draw(some(1, 0, 2, -3)),
            n_configs=data.draw(some(None, 2, 0, 1, 10**9)),
            seed=data.draw(some(0, 7, -1, 2**70)),
            spectrum_steps=data.draw(some(None, (), (-1,), (3,))),
        )
        assert set(frame["arm"]) == {*names}
        regrets = frame.filter(like="regret_")
        assert ((regrets >= 0.0) & (regrets <= 1.0)).all(axis=None)


COMMANDS = (
    "replay {table} --repeats 1 --figure f.html --trials 3 --seed 1 --csv c.csv --save s.npz",
    "race {database} --study-name gru --repeats 1 --figure f.html --trainings 2",
    "explain {journal} --study-name lstm --trial 2 --json",
    "explain {table} --trial 1 --figure f.html",
    "plots {database} --study-name gru --output out --format html",
    "learn {database} {table} --study-name g --output my.prior --base none --knob noise=gain",
    "doctor {database} --study-name gru --checkpoints . --json",
    "--version",
)
TOKENS = (
    *("replay", "race", "explain", "plots", "learn", "doctor", "--help", "-h", "--", "-", ""),
    *("--figure", "--csv", "--save", "--json", "--trial", "--trials", "--repeats", "--seed"),
    *("--study-name", "--output", "--base", "--knob", "--format", "--dashboard", "--trainings"),
    *("--checkpoints", "0", "1", "-1", "2", "1e3", "nan", "99999999999999999999", "gr", "GRU"),
    *("f.png", "f.txt", ".", "..", "no/f.html", "my.prior", "junk.npz", "junk.db", "junk.log"),
    *("sqlite:///junk.db", "sqlite:///none.db", "sqlite://", "sqlite:///", "journal:///junk.log"),
    *("postgresql+psycopg://me:secret@127.0.0.1:1/db", "mysql+pymysql://me:secret@127.0.0.1:1/d"),
    *("redis://:secret@127.0.0.1:1", "grpc://127.0.0.1:1", "grpc://", "nosuch://me:secret@h/x"),
    *("://", "sqlite:///\x00", "postgresql+psycopg://me:secret@[/db", "\x1b[31mred", "a\nb"),
    *(
        "{table}",
        "{database}",
        "{journal}",
        "<script>alert(1)</script>",
        "\udcff",
        "x=learning_rate",
    ),
)
words = st.one_of(
    st.sampled_from(TOKENS),
    # Without slashes, which might lead out of the folder.
    st.text(st.characters(exclude_characters="/\\"), max_size=6),
)


@st.composite
def argument_lists(draw: st.DrawFn) -> list[str]:
    arguments = draw(st.sampled_from(COMMANDS)).split()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(arguments)))
        kind = draw(st.sampled_from(["insert", "replace", "drop", "double", "cut"]))
        if kind == "insert":
            arguments.insert(at, draw(words))
        elif at < len(arguments):
            new = {
                "replace": [draw(words)],
                "drop": [],
                "double": [arguments[at]] * 2,
                "cut": [arguments[at][:-1]],
            }[kind]
            arguments[at : at + 1] = new
    return arguments


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small sources, and the absolute paths of what is none."""
    folder = tmp_path_factory.mktemp("sources")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    database = f"sqlite:///{folder / 'my.db'}"
    for name in ("gru", "lstm"):
        run_synthetic(optuna.create_study(study_name=name, storage=database), 8, n_steps=2)
    journal = folder / "my.log"
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    storage = optuna.storages.JournalStorage(backend)
    run_synthetic(optuna.create_study(study_name="lstm", storage=storage), 4, n_steps=2)
    table = folder / "my.npz"
    study = optuna.create_study(study_name="table")
    study.add_trials(made_trials(8))
    RecordedTrials.from_study(study).save(table)
    return {"table": str(table), "database": database, "journal": str(journal)}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One arm, one figure, no second process: here it matters what is refused."""
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    for name in ("junk.npz", "junk.db", "junk.log"):
        Path(name).write_bytes(b"junk\n\x00\xff")
    one = {"none": optuna.pruners.NopPruner}
    monkeypatch.setattr(arms, "shown_arms", lambda steps: one)
    monkeypatch.setattr(arms, "shown_search_arms", lambda steps: {"coin": lambda: coin})
    spectra = plots.figures()["spectra"]
    monkeypatch.setattr(plots, "figures", lambda: {"spectra": spectra})
    monkeypatch.setattr(sources, "_GRPC_SECONDS", 0.01)
    import plotly.offline

    monkeypatch.setattr(plotly.offline, "get_plotlyjs", lambda: "")
    from optuna_aelle.cli import machine

    monkeypatch.setattr(machine, "of_machine", lambda *_: [Finding("ok", "machine", "here")])
    monkeypatch.setattr("subprocess.Popen", _NoProcess)


class _NoProcess:
    def __init__(self, *arguments: object, **more: object) -> None:
        pass

    def __enter__(self) -> _NoProcess:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def kill(self) -> None:
        pass


@many
@given(arguments=argument_lists())
def test_whatever_is_typed_ends_in_a_status_and_a_line(
    arguments: list[str], files: dict[str, str], quick: None
) -> None:
    for name, value in files.items():
        arguments = [argument.replace(f"{{{name}}}", value) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(arguments)
    said = err.getvalue()
    assert status in (0, 1, 2)
    assert "Traceback" not in said
    assert "internal error" not in said
    assert "secret" not in out.getvalue() + said
    assert "\x1b" not in out.getvalue() + said
    if status == 1:
        assert "doctor" in arguments
    if status == 2:
        lines = [x for x in said.splitlines() if not x.startswith(("Study: ", "Note: "))]
        assert len(lines) == 1
        assert lines[0].startswith("optuna-aelle")
