"""The comparison of pruners: peers decide as they say, statistics are right, the command runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from optuna.trial import create_trial

from benchmarks.decisions import pruning
from benchmarks.decisions import ranking
from benchmarks.decisions.arms import SHUFFLED
from benchmarks.decisions.arms import all_arms
from benchmarks.decisions.arms import resuming_arms
from benchmarks.decisions.peers import CurveRegressionPruner
from benchmarks.decisions.peers import LossSumPruner
from benchmarks.decisions.peers import TopK
from benchmarks.decisions.regressors import LinearRegressor
from benchmarks.decisions.samplers import aelle_sampler
from benchmarks.decisions.statistics import against
from benchmarks.decisions.statistics import cliques
from benchmarks.decisions.statistics import holm
from benchmarks.decisions.statistics import load
from benchmarks.decisions.statistics import mean_ranks
from benchmarks.decisions.statistics import overall
from benchmarks.environment import RESULTS
from benchmarks.record.table import TABLES
from benchmarks.record.tables import DEVELOPMENT_TABLES
from optuna_aelle import AeLLEPruner
from optuna_aelle import RecordedTrials
from optuna_aelle.backtest.arms import OURS
from optuna_aelle.backtest.arms import Steps
from optuna_aelle.backtest.replay import replay
from optuna_aelle.backtest.replay import replay_study
from optuna_aelle.trials.attributes import spectrum_payloads
from optuna_aelle.visualization import pareto_front
from tests.backtest.test_replay import made_table


def with_losses(table: RecordedTrials) -> RecordedTrials:
    values = np.array([list(t.intermediate_values.values()) for t in table.trials])
    curves = {"train_loss": values, "test": values + 0.1, "seconds": np.ones_like(values)}
    return RecordedTrials(
        table.name, table.direction, table.trials, table.step_seconds, curves, {"metric": "loss"}
    )


def test_every_arm_runs_and_reports_the_same_columns() -> None:
    table = with_losses(made_table(30))
    arms = all_arms(Steps.of(table))
    frame = replay(table, arms, n_trials=15, n_repeats=1)
    assert list(frame["pruner"]) == list(arms)
    assert frame[["epochs_share", "regret", "best_kept", "chosen_test"]].notna().all().all()
    assert (frame.loc[frame["pruner"] == "none", "regret"] == 0.0).all()


def test_results_know_the_names_of_the_arms() -> None:
    recorded = load(RESULTS / "pruning.json")
    arms = {*all_arms(Steps(last=27)), *resuming_arms()}
    assert {*recorded.loc[recorded["stream"] == "random", "pruner"]} == arms
    assert {*recorded.loc[recorded["stream"] == "tpe", "pruner"]} == {*pruning.TPE_ARMS}
    assert {*pruning.QUICK_ARMS} <= arms


def test_top_k_by_hand() -> None:
    curves = [[5.0, 4.0, 1.0], [3.0, 3.0, 3.0], [4.0, 2.0, 2.0]]
    trials = []
    for number, curve in enumerate(curves):
        trial = create_trial(
            value=curve[-1], intermediate_values=dict(zip((1, 2, 5), curve, strict=True))
        )
        trial.number = number
        trials.append(trial)
    table = RecordedTrials("hand", "minimize", tuple(trials), np.ones(3))
    # Three epochs for all, then two more for the one that leads after the first.
    assert TopK(1, 1).run(table, [0, 1, 2]) == ([5.0], [1])
    assert TopK(2, 2).run(table, [0, 1, 2]) == ([7.0, 8.0], [2, 1])


def test_the_sum_of_losses_is_ranked() -> None:
    table = with_losses(made_table(40))
    replayed = replay_study(table, LossSumPruner(25.0, n_startup_trials=5), range(40))
    losses = np.cumsum(table.curves["train_loss"], axis=1)
    for position, trial in enumerate(replayed.study.trials):
        if trial.state != TrialState.PRUNED:
            continue
        step = trial.last_step
        assert step is not None
        came = [
            losses[i, step]
            for i, steps in zip(range(position), replayed.steps, strict=False)
            if steps > step
        ]
        assert losses[position, step] > np.percentile(came, 25.0)


def test_the_regression_prunes_what_cannot_win_and_keeps_the_best() -> None:
    """Curves that are straight lines: after two points, where they end is known."""
    rng = np.random.default_rng(0)
    trials = []
    for number in range(40):
        slope = rng.uniform()
        curve = {step: 1.0 - slope * (step + 1) / 10 + 1e-4 * rng.normal() for step in range(10)}
        trial = create_trial(value=curve[9], intermediate_values=curve)
        trial.number = number
        trials.append(trial)
    table = RecordedTrials("lines", "minimize", tuple(trials), np.ones(40))
    frame = replay(table, {"r": lambda: CurveRegressionPruner(0.05, 1)}, n_repeats=5)
    assert (frame["regret"] < 0.02).all()
    assert (frame["epochs_share"] < 0.6).all()


def test_shuffling_moves_whole_sets_of_spectra() -> None:
    table = made_table(20)
    blind = pruning.shuffle_spectra(table, 0)
    before = [str(t.system_attrs) for t in table.trials]
    after = [str(t.system_attrs) for t in blind.trials]
    assert sorted(before) == sorted(after)
    assert before != after
    assert [t.values for t in table.trials] == [t.values for t in blind.trials]


def test_ridge_leaves_out_of_fold_predictions_of_what_is_known() -> None:
    rng = np.random.default_rng(0)
    spectra = -np.sort(rng.exponential(0.3, (60, 32)), axis=1)
    scores = spectra[:, 0] / spectra[:, 0].std()
    scores[::6] = np.nan
    model = LinearRegressor(None, 0)
    model.fit(spectra, scores, groups=np.arange(60), score_weights=np.ones(60))
    known = ~np.isnan(scores)
    seen = np.corrcoef(model.out_of_fold_prediction_[known], scores[known])[0, 1]
    assert 0.8 < seen < 0.9999


def test_components_of_few_networks() -> None:
    rng = np.random.default_rng(0)
    rows, targets = rng.normal(size=(6, 32)), rng.normal(size=6)
    fitted = LinearRegressor(8, 0).fit(
        rows, targets, groups=np.arange(6), score_weights=np.ones(6)
    )
    assert np.isfinite(fitted.predict(rows)).all()


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])


def test_a_pareto_front_by_hand() -> None:
    assert pareto_front([3.0, 1.0, 2.0, 2.0], [1.0, 5.0, 2.0, 3.0]) == [1, 2, 0]


def made_frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    arms = (("none", 1.0, 0.0), (OURS, 0.1, 0.1), ("Median", 0.2, 0.2))
    rows = []
    for table in range(8):
        for repeat in range(5):
            for pruner, share, regret in arms:
                noise = 0.01 * rng.standard_normal(2)
                rows.append(
                    {
                        "stream": "random",
                        "table": f"t{table}-rnn",
                        "pruner": pruner,
                        "repeat": repeat,
                        "epochs_share": share + noise[0],
                        "regret": regret + noise[1],
                        "best_kept": regret == 0.0,
                        "seconds_share": share,
                        "regret_at_20": regret,
                    }
                )
    return pd.DataFrame(rows)


def test_statistics_find_what_is_there() -> None:
    frame = made_frame()
    means = overall(frame, ["epochs_share"])
    assert means.loc[OURS, "epochs_share"] == pytest.approx(0.1, abs=0.01)
    assert means.loc[OURS, "epochs_share_low"] < 0.1 < means.loc[OURS, "epochs_share_high"]
    test = against(frame, OURS, "epochs_share", ["none", "Median"])
    assert test.loc["Median", "wins"] == 8
    # Eight wins of eight: 2 / 2^8, times two peers.
    assert test.loc["Median", "p_holm"] == pytest.approx(2 * 2 / 2**8)
    ranks, difference = mean_ranks(frame, "regret_at_20", ["none", OURS, "Median"])
    assert ranks.tolist() == [1.0, 2.0, 3.0]
    # Demšar (2006), table 5: q = 2.343 for three methods.
    assert difference == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 8)), rel=1e-3)


def test_tables_of_one_task_do_not_make_it_surer() -> None:
    alone = made_frame()
    alone["regret"] += alone["table"].str[1].astype(int) / 100.0
    twice = alone.assign(table=alone["table"].str.replace("rnn", "gru"))
    widths = []
    for frame in (alone, pd.concat([alone, twice])):
        row = overall(frame, ["regret"]).loc[OURS]
        widths.append(row["regret_high"] - row["regret_low"])
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


def test_cliques_by_hand() -> None:
    ranks = pd.Series([1.0, 3.5, 2.0, 6.0], index=list("abcd"))
    # In order 1, 2, 3.5, 6: the first two, and the middle two, are within 1.6 of each other.
    assert cliques(ranks, 1.6) == [(0, 1), (1, 2)]
    assert cliques(ranks, 2.5) == [(0, 2), (2, 3)]
    assert cliques(ranks, 0.5) == []


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (pruning.main, "--arms AeLLE Mean", "argument --arms: expected some of"),
        (pruning.main, "--tables digits-x", "argument --tables: expected some of adding-lstm"),
        (pruning.main, "--streams sobol", "argument --streams: invalid choice: 'sobol'"),
        (pruning.main, "--repeats 0", "argument --repeats: expected an integer of at least 1"),
        (pruning.main, "--workers 0", "argument --workers: expected an integer of at least 1"),
        (ranking.main, "--tables digits-x", "argument --tables: expected some of adding-lstm"),
        (ranking.main, "--workers x", "argument --workers: expected an integer of at least 1"),
    ],
)
def test_mistakes_of_the_command_line_are_one_line(
    command: Callable[[list[str]], None],
    arguments: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        command(arguments.split())
    assert left.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_the_command_writes_results_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = with_losses(made_table(20))
    table.save(tmp_path / "made.npz")
    monkeypatch.setattr(pruning, "TABLES", tmp_path)
    monkeypatch.setattr(pruning, "N_TRIALS", 12)
    monkeypatch.setattr(pruning, "FIRST_REPORT_TABLES", ("made",))
    monkeypatch.setattr(pruning, "N_REPEATS", 2)
    monkeypatch.setattr(pruning, "N_TPE_REPEATS", 1)
    pruning.main(f"--chunk 1 --workers 2 --output {tmp_path}".split())
    frame = load(tmp_path / "pruning.json")
    assert set(frame["stream"]) == {"random", "tpe"}
    random = frame[frame["stream"] == "random"]
    expected = {*all_arms(Steps.of(table)), *resuming_arms()}
    assert set(random["pruner"]) == expected
    assert random.groupby("pruner")["repeat"].nunique().eq(2).all()
    for name in ("pruning.png", "pruning_tables.png", "pruning_ranks.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    page = (tmp_path / "pruning.md").read_text()
    proposed = page.split("## Configurations proposed by TPE")[1]
    assert "| AeLLE sampler + AeLLE |" in proposed
    assert "none ◆" not in page
    assert "| made |" in page
    assert SHUFFLED in capsys.readouterr().out
    assert json.loads((tmp_path / "pruning.json").read_text())["environment"]["commit"]


def test_optuna_keeps_quiet_settings() -> None:
    level = optuna.logging.get_verbosity()
    replay(made_table(5), {"none": optuna.pruners.NopPruner}, n_repeats=1)
    assert optuna.logging.get_verbosity() == level


@pytest.mark.slow
def test_the_ranking_finds_what_the_spectrum_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ranking, "TABLES", tmp_path)
    monkeypatch.setattr(ranking, "EPOCHS", (-1, 1, 2))
    with_losses(made_table(60)).save(tmp_path / "made.npz")
    ranking.main(f"--tables made --workers 1 --output {tmp_path}".split())
    (table,) = json.loads((tmp_path / "ranking.json").read_text())["tables"]
    found = table["correlations"]
    # The hyperparameter is noise, the early curve nearly so; the spectrum tells.
    assert found["spectrum"]["-1"][0] > 0.9
    assert abs(found["hyperparameters"]["-1"][0]) < 0.4
    assert found["score"]["1"][0] < 0.6
    assert (tmp_path / "ranking.png").stat().st_size > 10_000
    assert "| made (" in capsys.readouterr().out


def test_the_sampler_ranks_what_is_then_trained_and_pays_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = RecordedTrials.load(TABLES / "digits-mixed.npz")
    free = dataclasses.replace(recorded, step_seconds=np.full(len(recorded), np.nan))
    sampler = aelle_sampler(free, 0)
    assert recorded.task not in sampler.prior.tasks
    ranked: list[str] = []
    spectrum_fn = sampler._spectrum_fn

    def watch(params: dict[str, Any]) -> Any:
        ranked.append(repr(sorted(params.items())))
        return spectrum_fn(params)

    monkeypatch.setattr(sampler, "_spectrum_fn", watch)
    pruner = optuna.pruners.NopPruner()
    order = range(len(recorded))
    replayed = replay_study(recorded, pruner, order, n_trials=40, proposer=sampler)
    trained = [repr(sorted(trial.params.items())) for trial in replayed.study.trials]
    # No spectrum is asked for twice, and some are of what is then trained.
    assert len(ranked) == len(set(ranked)) >= 4
    assert set(ranked) & set(trained)
    assert len(set(trained)) == 40
    seconds = [spectrum_payloads(trial)[-1]["seconds"] for trial in recorded.trials]
    keys = [repr(sorted(trial.params.items())) for trial in recorded.trials]
    charged = sum(seconds[keys.index(key)] for key in ranked)
    reported = sum(seconds[index] for index in replayed.indices)
    assert replayed.overhead_seconds > charged + reported


@pytest.mark.parametrize("name", DEVELOPMENT_TABLES[:3])
def test_intervals_cover_the_recorded_ends(name: str) -> None:
    # Nominally .8, for networks that the pruner itself kept from being seen to the end.
    recorded = RecordedTrials.load(TABLES / f"{name}.npz")
    frame = replay(recorded, {OURS: AeLLEPruner}, n_trials=60, n_repeats=3)
    assert 0.65 <= frame["coverage"].mean() <= 0.97
