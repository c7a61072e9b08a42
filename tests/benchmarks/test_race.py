"""The benchmark of races: what is kept of them, what a forest knows, and that it can go on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from benchmarks.environment import RESULTS
from benchmarks.environment import command_line
from benchmarks.race import __main__ as command
from benchmarks.race import arms
from benchmarks.race import figure
from benchmarks.race import forest as forests
from benchmarks.race import transfer
from benchmarks.race.forest import Forest
from benchmarks.race.forest import standings_of
from benchmarks.race.results import MEASURES
from benchmarks.race.results import Results
from benchmarks.race.results import merge
from benchmarks.race.results import pack
from benchmarks.record.tables import DEVELOPMENT_TABLES
from benchmarks.record.tables import REPORT_TABLES
from optuna_aelle import RecordedTrials
from optuna_aelle import encode_spectrum
from optuna_aelle.backtest.arms import DEFAULTS
from optuna_aelle.backtest.arms import OURS

N_STEPS = 9


def made_table(
    task: str, *, n: int = 60, seed: int = 0, direction: str = "minimize", name: str = "rate"
) -> RecordedTrials:
    """The best rate is .01 everywhere, and the spectrum tells what the rate does not."""
    rng = np.random.default_rng(seed)
    sign = 1.0 if direction == "minimize" else -1.0
    trials = []
    for number in range(n):
        rate, hidden = 10.0 ** rng.uniform(-4, 0), rng.uniform()
        end = abs(math.log10(rate) + 2.0) + 2.0 * hidden
        curve = end + 1.0 / np.arange(1, N_STEPS + 1)
        attributes: dict[str, Any] = {}
        for step in (-1, 1):
            spectrum = -hidden * np.arange(1.0, 33.0)
            attributes |= encode_spectrum(spectrum, step, seconds=0.01)
        params: dict[str, Any] = {name: rate}
        space: dict[str, Any] = {name: FloatDistribution(1e-4, 1.0, log=True)}
        if number % 2:
            params["cell"] = "gru"
            space["cell"] = CategoricalDistribution(("gru", "rnn"))
        trial = create_trial(
            value=sign * float(curve[-1]),
            params=params,
            distributions=space,
            intermediate_values={s: sign * float(v) for s, v in enumerate(curve, start=1)},
            system_attrs=attributes,
        )
        trial.number = number
        trial.datetime_start = trial.datetime_complete = None
        trials.append(trial)
    return RecordedTrials(
        f"{task}-made",
        direction,  # type: ignore[arg-type]
        tuple(trials),
        np.full(n, 1.0),
        metadata={"task": task, "metric": "error"},
    )


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Three small tables in place of the recorded ones."""
    names = []
    for seed, (task, direction) in enumerate({"one": "minimize", "two": "maximize"}.items()):
        made_table(task, seed=seed, direction=direction).save(tmp_path / f"{task}-made.npz")
        names.append(f"{task}-made")
    made_table("old", seed=5).save(tmp_path / "old-made.npz")
    for module in (command, forests):
        monkeypatch.setattr(module, "TABLES", tmp_path)
    for module in (command, forests, transfer):
        monkeypatch.setattr(module, "REPORT_TABLES", tuple(names))
        monkeypatch.setattr(module, "DEVELOPMENT_TABLES", ("old-made",))
    forests.load.cache_clear()
    forests.forest_without.cache_clear()
    yield tuple(names)
    forests.load.cache_clear()
    forests.forest_without.cache_clear()


def test_no_table_of_a_task_is_in_its_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forests, "load", lambda name: name)
    for task in {name.rsplit("-", 1)[0] for name in (*REPORT_TABLES, *DEVELOPMENT_TABLES)}:
        past = forests.past_of(task)
        assert not any(str(name).startswith(f"{task}-") for name in past)
        own = [n for n in (*REPORT_TABLES, *DEVELOPMENT_TABLES) if n.rsplit("-", 1)[0] == task]
        assert len(past) == len(REPORT_TABLES) + len(DEVELOPMENT_TABLES) - len(own)


def test_a_forest_learns_from_other_tasks_what_carries_over() -> None:
    past = [made_table(task, seed=i) for i, task in enumerate("abc")]
    new = made_table("new", seed=9, direction="maximize")
    standings = standings_of(new)

    def correlation(*features: Any) -> float:
        forest = Forest(past, features)
        assert forest.tasks == {"a", "b", "c"}
        means, spread = forest.predict(new.trials, -1)
        assert (spread >= 0.0).all()
        np.testing.assert_allclose(means, forest.predict_table(new), atol=1e-9)
        return float(np.corrcoef(means, standings)[0, 1])

    names, spectrum, both = (
        correlation(*f) for f in (("names",), ("spectrum",), ("names", "spectrum"))
    )
    assert min(names, spectrum) > 0.4
    # Columns of the spectrum are many, and of a third of them few are names.
    assert both > max(names, spectrum) + 0.02
    curve = Forest(past, ("curve",), 1).predict_table(new)
    assert np.corrcoef(curve, standings)[0, 1] > 0.95


def test_a_name_that_nobody_knows_says_nothing() -> None:
    forest = Forest([made_table("a"), made_table("b", seed=1)], ("names",))
    strange = made_table("new", seed=2, name="eta")
    means, _ = forest.predict(strange.trials, -1)
    # The cell alone, which some have and others have not.
    assert len(np.unique(means)) <= 2
    with pytest.raises(ValueError, match="Expected the step that was learned, -1, got 3"):
        forest.predict(strange.trials, 3)


def made_frame(ends: dict[str, tuple[float, float]]) -> pd.DataFrame:
    """Two tables, two repeats, two trainings; regret falls to what is said after each."""
    rows = []
    for arm, (first, second) in ends.items():
        for table in ("one-made", "two-made"):
            for repeat in (0, 1):
                for point in range(1, 19):
                    regret = 1.0 if point < 9 else first if point < 18 else second
                    regret = min(regret + 0.1 * repeat, 1.0)
                    row = {"arm": arm, "table": table, "repeat": repeat}
                    row |= {"epochs": float(point), "trainings": round(point / 9, 6)}
                    row |= dict.fromkeys(MEASURES, regret)
                    row |= {"n_started": point, "n_finished": point // 9, "overhead": 0.5}
                    rows.append(row)
    return pd.DataFrame(rows)


ENDS = {
    arms.ORACLE: (0.0, 0.0),
    arms.COIN: (1.0, 0.9),
    DEFAULTS: (0.8, 0.4),
    "TPE, none": (0.9, 0.2),
    "forest on names, ASHA η=3": (0.1, 0.1),
    OURS: (0.5, 0.1),
}


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "race.json"
    path.write_text(json.dumps(pack(made_frame(ENDS), (1, 2))))
    results = Results.read(path)
    assert results.arms == list(ENDS)
    assert results.tables == ["one-made", "two-made"]
    assert results.tasks == ["one", "two"]
    # Three points a training.
    np.testing.assert_allclose(results.trainings, np.arange(1, 7) / 3, atol=1e-6)
    np.testing.assert_allclose(results.curves("regret_final", OURS)[0, 2:], [0.55] * 3 + [0.15])
    np.testing.assert_allclose(results.at("regret_seen", OURS, 2), [[0.1, 0.2]] * 2)
    mean, low, high = results.mean("regret_final", OURS, 1)
    assert low <= mean <= high
    assert mean == pytest.approx(0.55)
    assert (low, high) == (pytest.approx(0.5), pytest.approx(0.6))
    assert results.content["counts"]["n_finished"][OURS] == {"1": 1.0, "2": 2.0}
    mean, low, high, won, lost = results.difference("regret_final", OURS, DEFAULTS, 1)
    assert (mean, low, high) == (pytest.approx(-0.3),) * 3
    assert (won, lost) == (2, 0)


def test_an_arm_that_has_failed_somewhere_is_told_of_and_not_ranked(tmp_path: Path) -> None:
    frame = made_frame(ENDS | {"TPE, Median": (0.0, 0.0)})
    failed = (frame["arm"] == "TPE, Median") & (frame["table"] == "one-made")
    frame.loc[failed & (frame["repeat"] == 1), list(MEASURES)] = math.nan
    path = tmp_path / "race.json"
    path.write_text(json.dumps(pack(frame, (1, 2))))
    results = Results.read(path)
    assert results.content["failed"] == ["TPE, Median, one-made, repeat 1"]
    assert not results.is_complete("TPE, Median")
    assert figure.best_peer(results, "regret_final", 2)[0] == "TPE, none"
    figure.draw_all(path)
    page = (tmp_path / "race.md").read_text()
    assert "Raised, and left out: TPE, Median, one-made, repeat 1." in page
    assert "TPE, Median" not in figure.speedup_text(results)


def test_where_no_peer_races_the_best_of_all_is_the_bar(tmp_path: Path) -> None:
    frame = made_frame({"forest on names, SHA η=2": (0.5, 0.1), OURS: (0.6, 0.3)})
    path = tmp_path / "race.json"
    path.write_text(json.dumps(pack(frame, (1, 2))))
    results = Results.read(path)
    assert figure.best_peer(results, "regret_final", 2)[0] == "forest on names, SHA η=2"
    figure.draw_all(path)


def test_the_best_peer_is_neither_ours_nor_a_judge_nor_one_with_a_past(tmp_path: Path) -> None:
    path = tmp_path / "race.json"
    path.write_text(json.dumps(pack(made_frame(ENDS), (1, 2))))
    results = Results.read(path)
    assert figure.best_peer(results, "regret_final", 1) == (DEFAULTS, pytest.approx(0.85))
    assert figure.best_peer(results, "regret_final", 2) == ("TPE, none", pytest.approx(0.25))
    text = figure.speedup_text(results)
    # The regret of the best peer after two trainings: the forest has it after one.
    assert [line for line in text.splitlines() if "forest" in line][0].endswith("| 1.0 | 1.0 |")
    assert [line for line in text.splitlines() if OURS in line][0].endswith("| 1.0 | 2.0 |")
    assert "—" in [line for line in text.splitlines() if arms.COIN in line][0]
    figure.draw_all(path)
    for kind in ("", "_tables", "_speedups", "_ranks"):
        assert (tmp_path / f"race{kind}.png").stat().st_size > 10_000
    page = (tmp_path / "race.md").read_text()
    assert f"| {OURS} | 0.550 (0.50–0.60)" in page


@pytest.mark.slow
def test_races_are_run_kept_and_gone_on_with(
    tables: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    racing = [arms.ORACLE, arms.COIN, "random, none", "forest on names + spectrum, ASHA η=3"]
    racing += ["top 1 after 1"]
    monkeypatch.setattr(command, "TRAININGS", (2, 4))
    monkeypatch.setattr(command, "HOUR", tuple(racing))
    monkeypatch.setattr(command, "_WARMED", ("TPE, none",))
    command.code_version.cache_clear()
    given = f"--repeats 3 --workers 2 --output {tmp_path} --cache {tmp_path / 'kept'}".split()
    command.main(given)
    results = Results.read(tmp_path / "race.json")
    assert set(results.arms) == set(racing)
    assert results.tables == sorted(tables)
    assert results.content["n_repeats"] == 3
    assert results.content["environment"]["commit"]
    final = {name: results.mean("regret_final", name, 4)[0] for name in racing}
    assert final[arms.ORACLE] == 0.0
    assert final["forest on names + spectrum, ASHA η=3"] < final["random, none"]
    assert np.isfinite(results.at("regret_final", "top 1 after 1", 2)).all()
    assert f"| {arms.COIN} |" in capsys.readouterr().out
    # All of it is there: nothing is raced again.
    kept = sorted((tmp_path / "kept").rglob("*.csv.gz"))
    assert len(kept) == 2 * 3

    def never(*_: object, **__: object) -> None:
        raise AssertionError("raced again")

    monkeypatch.setattr(command, "race", never)
    before = results.content["at"]
    command.main(given)
    assert Results.read(tmp_path / "race.json").content["at"] == before


@pytest.mark.slow
def test_the_transfer_of_made_tables(
    tables: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transfer_epochs = transfer.EPOCHS
    assert transfer_epochs[0] == -1
    (row,) = transfer.rank(tables[0].rsplit("-", 1)[0], tables[:1])
    assert row["correlations"]["all"]["-1"][0] > 0.7
    assert row["correlations"]["score so far"]["1"][0] > 0.95
    assert row["best_among_first"]["all"][1] >= row["best_among_first"]["names"][0]
    assert "| all | " in transfer.text([row])


def test_every_arm_has_a_name_of_its_own_and_those_of_an_hour_are_there() -> None:
    recorded = made_table("one")
    every = arms.all_arms(recorded)
    planned = arms.planned_arms()
    assert not every.keys() & planned.keys()
    assert set(arms.HOUR) <= every.keys() | planned.keys()
    assert set(arms.QUICK) <= every.keys()
    assert arms.is_judge(arms.COIN)
    assert not arms.is_judge(OURS)
    assert arms.knows_other_tasks("forest on names, SHA η=2")
    assert not arms.knows_other_tasks("ASHA η=3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--tables digits-x", "argument --tables: invalid choice: 'digits-x'"),
        ("--arms nobody", "argument --arms: invalid choice: 'nobody'"),
        ("--repeats 0", "argument --repeats: expected an integer of at least 1"),
    ],
)
def test_mistakes_are_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(arguments.split())
    assert left.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_page_shows_what_is_in_the_results() -> None:
    shown = figure.page_table(Results.read(RESULTS / "race.json"))
    page = (RESULTS.parents[1] / "docs" / "benchmarks" / "who-wins.md").read_text()
    assert shown in page, "Paste what `python -m benchmarks.race.figure` ends with."


def test_the_judges_stand_where_they_must() -> None:
    results = Results.read(RESULTS / "race.json")
    assert len(results.tables) == len(REPORT_TABLES)
    assert results.content["n_repeats"] == 10
    assert results.content["failed"] == []
    for budget in results.budgets:
        means = {name: results.mean("regret_final", name, budget)[0] for name in results.arms}
        assert means[arms.ORACLE] == 0.0
        assert max(means, key=lambda name: means[name]) == arms.COIN


def test_a_results_file_does_not_say_where_it_lay() -> None:
    given = ["--tables", "a", "--output", "/tmp/b", "--cache=/tmp/c", "--quick", "--workers", "2"]
    assert command_line("python -m x", given) == "python -m x --tables a --quick"


def test_arms_that_were_raced_again_are_put_in_the_place_of_the_old() -> None:
    head = {"pool_share": 0.8, "command": "old", "environment": {}}
    older = {**head, **pack(made_frame(ENDS), (1, 2))}
    frame = made_frame({OURS: (0.3, 0.0), "another": (0.2, 0.2)})
    newer = {**head, "command": "new", "environment": {"cores": 2}, **pack(frame, (1, 2))}
    merged = merge(older, newer)
    for group in ("curves", "at"):
        for measure, own in merged[group].items():
            assert own[DEFAULTS] == older[group][measure][DEFAULTS]
            assert own[OURS] == newer[group][measure][OURS]
            assert own["another"] == newer[group][measure]["another"]
    assert merged["command"] == "old"
    run = {"arms": [OURS, "another"], "command": "new", "environment": {"cores": 2}}
    assert merged["reruns"] == [run]
    # Once more: the latest counts.
    again = merge(merged, {**newer, "command": "newer"})
    assert again["reruns"] == [{**run, "command": "newer"}]
    with pytest.raises(ValueError, match="same n_repeats, 3, got 2"):
        merge({**older, "n_repeats": 3}, newer)
    fewer = pack(frame[frame["table"] == "one-made"], (1, 2))
    with pytest.raises(ValueError, match="over the same tables, got .'two-made'"):
        merge(older, {**newer, **fewer})
