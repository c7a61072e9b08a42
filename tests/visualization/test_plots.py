"""Figures must show what the trials hold: positions, colours and shares are checked by value."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle import encode_spectrum
from optuna_aelle import report_spectrum
from optuna_aelle.decisions.front import FORECASTS_PREFIX
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.continuation import CHECKPOINTS_KEY
from optuna_aelle.trials.continuation import enqueue_continuation
from optuna_aelle.trials.objectives import VALUES_PREFIX
from optuna_aelle.visualization import _compute
from optuna_aelle.visualization import plot_compute_saved
from optuna_aelle.visualization import plot_latent_map
from optuna_aelle.visualization import plot_predictions
from optuna_aelle.visualization import plot_race
from optuna_aelle.visualization import plot_resumed
from optuna_aelle.visualization import plot_spectra
from optuna_aelle.visualization import plot_trial
from optuna_aelle.visualization._clusters import clusters_of
from optuna_aelle.visualization._spectra import FINGERPRINT_AXIS
from optuna_aelle.visualization._style import STOPPED
from tests.conftest import say
from tests.visualization.conftest import stored_forecast

PLOTS = [plot_spectra, plot_latent_map, plot_predictions, plot_compute_saved, plot_resumed]
Plot = Callable[[optuna.Study], go.Figure]
DARK = "rgb(68, 1, 84)"

# Of a study in which nobody was resumed, the last one has nothing to show.
with_data = pytest.mark.parametrize("plot", PLOTS[:-1], ids=lambda plot: plot.__name__)
every_plot = pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)


def add(study: optuna.Study, state: TrialState = TrialState.COMPLETE, **kwargs: Any) -> None:
    study.add_trial(create_trial(state=state, **kwargs))


def lines(figure: go.Figure) -> list[Any]:
    """The spectra drawn as the latest of their trials."""
    return [trace for trace in figure.data if trace.legendgroup in ("latest", "best")]


def spectrum(scale: float, step: int = 0) -> dict[str, Any]:
    return encode_spectrum(-scale * np.arange(1.0, 33.0), step)


@every_plot
def test_study_without_trials_says_what_it_waits_for(plot: Plot, make_study: Any) -> None:
    figure = plot(make_study())
    assert not figure.data
    assert len(figure.layout.annotations) == 1
    assert figure.layout.annotations[0].text


@every_plot
def test_failed_trials_are_left_out(plot: Plot, make_study: Any) -> None:
    study = make_study()
    for _ in range(3):
        attributes = spectrum(0.1) | stored_forecast(0, 0.5, 0.1)
        add(study, TrialState.FAIL, system_attrs=attributes, intermediate_values={0: 0.5})
    figure = plot(study)
    assert not figure.data
    assert figure.layout.annotations


@every_plot
def test_several_objectives_are_drawn_by_the_first(plot: Plot, no_umap: None) -> None:
    study = several_objectives()
    text = plot(study).to_json()
    assert json.loads(text)["layout"]["title"]["text"]
    plot(optuna.create_study(directions=["minimize", "maximize"]))


def several_objectives() -> optuna.Study:
    """Five trials; 0, 1 and 2 are the Pareto front, 4 was stopped after two steps."""
    study = optuna.create_study(directions=["minimize", "maximize"])
    for values in ([0.1, 1.0], [0.2, 2.0], [0.3, 3.0], [0.4, 1.0]):
        add(study, values=values, system_attrs=spectrum(values[0]))
    attributes = spectrum(0.5)
    for step in range(2):
        attributes |= {f"{VALUES_PREFIX}{step}": {"version": 1, "values": [0.5, 1.0], "trial": 4}}
    add(study, TrialState.PRUNED, system_attrs=attributes)
    return study


def test_the_pareto_front_is_thick_and_what_it_cost_is_counted(no_umap: None) -> None:
    study = several_objectives()
    thick = [t for t in lines(plot_spectra(study)) if t.legendgroup == "best"]
    assert sorted(int(t.hovertemplate.split(",")[0][6:]) for t in thick) == [0, 1, 2]
    assert thick[0].name == "Pareto front"
    # Those that finished without a report count as the longest, two steps.
    assert plot_compute_saved(study).layout.title.text.startswith("Compute: 10 of 10 steps")
    (cross,) = [t for t in plot_latent_map(study).data if t.marker.symbol == "x"]
    assert "value 0.5" in cross.text[0]


@with_data
def test_json_holds_lists_and_only_finite_numbers(plot: Plot, make_study: Any) -> None:
    study = make_study(20)
    add(study, value=math.inf, system_attrs=encode_spectrum([-math.inf] * 4, 0))
    text = plot(study).to_json()
    assert "bdata" not in text

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    assert json.loads(text, parse_constant=refuse)["data"]


@with_data
def test_running_and_valueless_trials_do_not_raise(plot: Plot, make_study: Any) -> None:
    study = make_study(4)
    report_spectrum(study.ask(), -0.1 * np.arange(1.0, 33.0), 0)
    add(study, TrialState.PRUNED, system_attrs=spectrum(0.2, -1))
    add(study, value=-math.inf, system_attrs=spectrum(0.3))
    assert plot(study).data


def test_spectra_are_drawn_where_the_axis_says(make_study: Any) -> None:
    study = make_study(6)
    figure = plot_spectra(study)
    drawn = lines(figure)
    assert len(drawn) == 6
    for trace in drawn:
        number = int(trace.hovertemplate.split(",")[0].removeprefix("trial "))
        expected = list(decode_spectra(study.trials[number]).values())[-1]
        np.testing.assert_allclose(0.1 * np.sinh(trace.y), expected, rtol=1e-3, atol=1e-4)
    assert figure.layout.xaxis.title.text == FINGERPRINT_AXIS
    axis = figure.layout.yaxis
    labels = [float(text.replace("\N{MINUS SIGN}", "-")) for text in axis.ticktext]
    np.testing.assert_allclose(np.arcsinh(np.array(labels) / 0.1), axis.tickvals, atol=1e-3)
    assert 0.0 in labels
    assert labels == sorted(labels)
    assert len(labels) >= 4


def test_line_ends_at_minus_infinity(make_study: Any) -> None:
    study = make_study()
    exponents = np.where(np.arange(32) < 20, -0.1, -math.inf)
    add(study, value=1.0, system_attrs=encode_spectrum(exponents, 0))
    (trace,) = lines(plot_spectra(study))
    assert [y is None for y in trace.y] == [False] * 20 + [True] * 12
    assert not trace.connectgaps


@pytest.mark.parametrize(("direction", "best"), [("minimize", 0), ("maximize", 2)])
def test_best_trial_is_darkest_and_drawn_last(direction: str, best: int, make_study: Any) -> None:
    study = make_study(direction=direction)
    for value in (0.1, 0.5, 0.9):
        add(study, value=value, system_attrs=spectrum(value))
    drawn = lines(plot_spectra(study))
    assert drawn[-1].hovertemplate.startswith(f"trial {best},")
    assert drawn[-1].legendgroup == "best"
    assert [trace.line.color == DARK for trace in drawn] == [False, False, True]


def test_trial_without_value_is_grey(make_study: Any) -> None:
    study = make_study()
    add(study, value=0.5, system_attrs=spectrum(0.1))
    add(study, TrialState.PRUNED, system_attrs=spectrum(0.2))
    grey, scored = lines(plot_spectra(study))
    assert grey.hovertemplate.startswith("trial 1, pruned")
    assert grey.line.color == "#b5b5b5"
    assert scored.line.color != "#b5b5b5"


def test_one_diverged_trial_does_not_flatten_the_colours(make_study: Any) -> None:
    study = make_study(40)
    add(study, value=-1e9, system_attrs=spectrum(0.5))
    colours = {trace.line.color for trace in lines(plot_spectra(study))}
    assert len(colours) > 20


def test_latent_map_separates_two_families(make_study: Any) -> None:
    study = make_study(30)
    figure = plot_latent_map(study)
    assert figure.layout.title.text.endswith("(UMAP)")
    points, slow = [], []
    for trace in figure.data:
        assert trace.marker.symbol == ("x" if trace.name == "pruned" else "circle")
        for x, y, text in zip(trace.x, trace.y, trace.text, strict=True):
            points.append((x, y))
            slow.append(int(text.split(",")[0].removeprefix("trial ")) % 2 == 0)
    assert len(points) == 30
    distance = np.linalg.norm(np.array(points)[:, None] - np.array(points), axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert np.mean(np.array(slow)[distance.argmin(axis=1)] == slow) > 0.9


def test_latent_map_repeats_itself(make_study: Any) -> None:
    study = make_study(16)
    assert plot_latent_map(study).to_json() == plot_latent_map(study).to_json()
    assert plot_latent_map(study).to_json() != plot_latent_map(study, random_state=1).to_json()


def test_few_spectra_are_placed_by_pca(make_study: Any) -> None:
    figure = plot_latent_map(make_study(14))
    assert figure.layout.title.text.endswith("(PCA)")
    assert sum(len(trace.x) for trace in figure.data) == 14


def test_without_umap_spectra_are_placed_by_pca(make_study: Any, no_umap: None) -> None:
    figure = plot_latent_map(make_study(16))
    assert figure.layout.title.text.endswith("(PCA)")
    assert sum(len(trace.x) for trace in figure.data) == 16


@pytest.mark.parametrize("n_trials", [3, 20])
def test_latent_map_of_equal_spectra_and_values(n_trials: int, make_study: Any) -> None:
    study = make_study()
    for _ in range(n_trials):
        add(study, value=1.0, system_attrs=spectrum(0.1))
    figure = plot_latent_map(study)
    assert sum(len(trace.x) for trace in figure.data) == n_trials


def test_forecasts_by_step_with_their_intervals(make_study: Any) -> None:
    study = make_study()
    for value, predicted in ((0.2, 0.25), (0.8, 0.5)):
        attributes = stored_forecast(-1, predicted, 0.1, share=0.2)
        attributes |= stored_forecast(3, value, 0.05)
        add(study, value=value, system_attrs=attributes)
    add(study, TrialState.PRUNED, value=0.3, system_attrs=stored_forecast(3, 0.4, 0.1))
    figure = plot_predictions(study)
    traces = {trace.name: trace for trace in figure.data}
    untrained = traces["from untrained"]
    assert untrained.x == (0.2, 0.8)
    assert untrained.y == (0.25, 0.5)
    np.testing.assert_allclose(untrained.error_y.array, [0.128, 0.128])
    assert "chance of the best 20% (0.95): 90.0%" in untrained.text[0]
    assert "forecast 0.25 (80 %: 0.1218 to 0.3782)" in untrained.text[0]
    assert traces["from step 3"].y == (0.2, 0.8)
    pruned = traces["pruned, at the value reached"]
    assert (pruned.x, pruned.y, pruned.marker.symbol) == ((0.3,), (0.4,), "x")
    assert pruned.visible == "legendonly"
    assert "chance of the bar (0.95): 90.0%" in pruned.text[0]
    # 0.5 with its 0.128 misses 0.8, the three others hit.
    assert "75% of 4 within their 80 % interval" in figure.layout.title.text
    assert traces["exact"].x == traces["exact"].y


def test_forecasts_of_the_first_of_several_objectives() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    payload = {
        "version": 1,
        "values": [[0.3, 0.05], [9.0, 0.0]],
        "rival": 0,
        "rival_values": [0.1, 9.5],
        "chance": 0.004,
        "skill": [[40.0, 0.6, 0.4], None],
        "trial": 0,
    }
    add(study, values=[0.35, 9.0], system_attrs={f"{FORECASTS_PREFIX}2": payload})
    figure = plot_predictions(study)
    (trace,) = [t for t in figure.data if t.name == "from step 2"]
    assert (trace.x, trace.y) == ((0.35,), (0.3,))
    assert "at most 0.4%" in trace.text[0]
    assert "100% of 1" in figure.layout.title.text


def test_without_forecasts_the_predictor_says_why(make_study: Any) -> None:
    study = make_study()
    add(study, value=0.2)
    (empty,) = plot_predictions(study).layout.annotations
    assert "AeLLEPruner makes them" in empty.text
    say(study, {3: "silent, too few trials", 5: "speaks"})
    (empty,) = plot_predictions(study).layout.annotations
    assert empty.text == (
        "No forecasts of ended trials yet: step 3: silent, too few trials;<br>step 5: speaks."
    )
    add(study, TrialState.PRUNED, system_attrs=stored_forecast(-1, 0.3, 0.1))
    (empty,) = plot_predictions(study).layout.annotations
    assert empty.text.startswith("None of the 1 trials with forecasts has come to a value")


@pytest.mark.parametrize("first", [0, 1])
def test_compute_saved_by_hand(first: int, make_study: Any) -> None:
    study = make_study()
    full = dict.fromkeys(range(first, first + 10), 0.5)
    add(study, value=0.5, intermediate_values=full)
    add(study, TrialState.PRUNED, system_attrs=spectrum(0.1, -1))
    add(study, TrialState.PRUNED, value=0.5, intermediate_values={first: 0.5, first + 1: 0.5})
    study.ask()
    figure = plot_compute_saved(study)
    traces = {trace.name: trace for trace in figure.data}
    assert traces["taken"].x == (0, 1, 2)
    assert traces["taken"].y == (10, 10, 12)
    assert traces["every trial to its end"].y == (10, 20, 30)
    # Optuna's default pruner waits for five trials: it lets all of these go on, of which nobody
    # knows how far. Of what reported nothing it waits for the first report.
    least, most = figure.data[:2]
    assert least.y == (10, 11, 13)
    assert (most.name, most.y) == ("Optuna's default pruner", (10, 20, 30))
    title = figure.layout.title.text
    assert title.startswith("Compute: 12 of 30 steps (60% saved); best 0.5<br>")
    assert "13 to 30; best kept 0.5" in title


@pytest.mark.parametrize("most_asked", [30_000, 24])
def test_what_optunas_default_pruner_stops_is_known(
    most_asked: int, make_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked at every step, or as of long curves at three of them."""
    monkeypatch.setattr(_compute, "_MOST_ASKED", most_asked)
    study = make_study(direction="minimize")
    for _ in range(5):
        add(study, value=0.1, intermediate_values=dict.fromkeys(range(10), 0.1))
    # Above the median at once: stopped after a step, though it went to its end here.
    add(study, value=0.9, intermediate_values=dict.fromkeys(range(10), 0.9))
    # Stopped here after three steps, there after one: nothing is unknown.
    add(study, TrialState.PRUNED, value=0.8, intermediate_values=dict.fromkeys(range(3), 0.8))
    # Below the median until it was stopped here: there it may have gone on.
    add(study, TrialState.PRUNED, value=0.05, intermediate_values=dict.fromkeys(range(3), 0.05))
    least, most = plot_compute_saved(study).data[:2]
    assert np.diff(least.y).tolist() == [10, 10, 10, 10, 1, 1, 3]
    assert np.diff(most.y).tolist() == [10, 10, 10, 10, 1, 1, 10]


def test_a_curve_of_very_many_reports_is_drawn_at_once(make_study: Any) -> None:
    study = make_study(direction="minimize")
    n = 100_000  # asked at each, Optuna would copy all reports as often
    for _ in range(2):
        add(study, value=0.1, intermediate_values=dict.fromkeys(range(n), 0.1))
    before = time.process_time()
    figure = plot_compute_saved(study)
    assert time.process_time() - before < 15.0
    assert figure.data[0].y == (n, 2 * n)


def test_compute_without_pruning_saves_nothing(make_study: Any) -> None:
    study = make_study()
    add(study, value=0.5, intermediate_values={9: 0.5, 19: 0.5})
    add(study, value=0.5)
    assert ": 38 of 38 steps (0% saved)" in plot_compute_saved(study).layout.title.text


def test_a_race_by_hand() -> None:
    rows = [
        (arm, repeat, epochs, final, final / 2.0)
        for arm, finals in {"tpe": (1.0, 0.5), "AeLLE": (0.8, 0.2), "coin": (1.0, 0.9)}.items()
        for repeat in range(2)
        for epochs, final in zip((9.0, 18.0), finals, strict=True)
    ]
    rows += [
        ("broken", repeat, epochs, math.nan, math.nan) for repeat in (0, 1) for epochs in (9, 18)
    ]
    columns = ["arm", "repeat", "epochs", "regret_final", "regret_seen"]
    figure = plot_race(pd.DataFrame(rows, columns=columns), title="made")
    curves = {(t.name, t.xaxis): list(t.y) for t in figure.data if t.mode == "lines"}
    assert curves == {
        ("tpe", "x"): [1.0, 0.5],
        ("tpe", "x2"): [0.5, 0.25],
        ("AeLLE", "x"): [0.8, 0.2],
        ("AeLLE", "x2"): [0.4, 0.1],
        ("coin", "x"): [1.0, 0.9],
        ("coin", "x2"): [0.5, 0.45],
    }
    # Of ours and of the best peer alone.
    assert {t.legendgroup for t in figure.data if t.fill == "toself"} == {"AeLLE", "tpe"}
    assert "2 repeats" in figure.layout.title.text
    assert "bdata" not in figure.to_json()


def test_import_is_light() -> None:
    code = (
        "import sys, optuna_aelle.visualization;"
        "print([m for m in ('umap', 'numba', 'optuna_dashboard', 'torch')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def resumed_study() -> optuna.Study:
    """Trial 1 was stopped after two steps, and went on as trial 3."""
    study = optuna.create_study()
    attributes = encode_spectrum(-np.arange(1.0, 9.0), -1)
    for number, curve in enumerate(([0.9, 0.5, 0.3, 0.2], [0.8, 0.6], [0.9, 0.8])):
        whole = len(curve) == 4
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if whole else TrialState.PRUNED,
                value=curve[-1] if whole else None,
                intermediate_values=dict(enumerate(curve)),
                system_attrs=attributes | stored_forecast(1, 0.1 * number, 0.1),
            )
        )
    enqueue_continuation(study, study.trials[1])
    trial = study.ask()
    trial.report(0.3, 2)
    trial.report(0.1, 3)
    study.tell(trial, 0.1)
    return study


def test_a_network_that_goes_on_is_one_network(no_umap: None) -> None:
    study = resumed_study()
    least, most, needed, spent = plot_compute_saved(study).data
    assert list(spent.y) == [4, 6, 8, 10]
    assert list(needed.y) == [4, 8, 12, 12]
    # Of the network of trials 1 and 3 all is known, of trial 2 the first two steps.
    assert list(least.y) == [4, 8, 10, 10]
    assert list(most.y) == [4, 8, 12, 12]
    lines = [d for d in plot_spectra(study).data if d.mode == "lines"]
    assert len(lines) == 3
    # What was expected of trial 1 is held against where its network ended.
    figure = plot_predictions(study)
    circles = [d for d in figure.data if d.marker.symbol == "circle"]
    found = {(x, y) for d in circles for x, y in zip(d.x, d.y, strict=True)}
    assert (0.1, 0.1) in found
    texts = [text for d in circles for text in d.text]
    assert any("trial 3, which goes on with trial 1" in text for text in texts)


def test_a_resumed_network_is_one_line_with_a_mark_where_it_paused() -> None:
    figure = plot_resumed(resumed_study())
    line, stop = (t for t in figure.data if t.legendgroup in ("best", "others", "stops"))
    assert (line.x, line.y) == ((0, 1, 2, 3), (0.8, 0.6, 0.3, 0.1))
    assert "trials 1 → 3, complete, 0.1" in line.hovertemplate
    assert line.name == "went on, the best"
    assert (stop.x, stop.y, stop.marker.symbol) == ((1,), (0.6,), "diamond")
    assert figure.layout.title.text == (
        "Stopped networks that went on: 1 of 2, the best among them"
    )


def test_nobody_went_on_says_why(make_study: Any) -> None:
    study = make_study()
    add(study, value=0.5)
    assert "No trial has been stopped" in plot_resumed(study).layout.annotations[0].text
    add(study, TrialState.PRUNED, intermediate_values={0: 0.5})
    assert "no network is saved" in plot_resumed(study).layout.annotations[0].text
    saved = {CHECKPOINTS_KEY: {"version": 1, "n_epochs": 5, "saved": []}}
    add(study, TrialState.PRUNED, intermediate_values={0: 0.5}, system_attrs=saved)
    assert "None of the 2" in plot_resumed(study).layout.annotations[0].text


def test_pruned_trials_are_told_apart_from_bad_ones(make_study: Any, no_umap: None) -> None:
    study = make_study(20)
    traces = {t.name: t for t in plot_latent_map(study).data}
    assert traces["pruned"].marker.color == STOPPED
    assert traces["pruned"].marker.coloraxis is None
    assert traces["finished"].marker.coloraxis == "coloraxis"


def test_groups_of_the_latent_map_are_named(make_study: Any, no_umap: None) -> None:
    """Two cells of unlike spectra, sizes and scores, and hostile names."""
    study = make_study()
    rng = np.random.default_rng(0)
    cells = CategoricalDistribution(["gru", "<b>rnn</b>"])
    for number in range(30):
        is_gru = number % 2 == 0
        size = 64 if is_gru else 16
        exponents = -np.sort((0.05 if is_gru else 4.0) * rng.uniform(0.5, 1.0, size=size))
        add(
            study,
            value=0.9 if is_gru else 0.2,
            params={"cell": cells.choices[number % 2]},
            distributions={"cell": cells},
            system_attrs=encode_spectrum(exponents, -1),
        )
    names = {a.text for a in plot_latent_map(study).layout.annotations}
    assert names == {"gru, N 64, 0.9", "&lt;b&gt;rnn&lt;/b&gt;, N 16, 0.2"}


def test_one_cloud_has_no_groups() -> None:
    points = np.random.default_rng(0).normal(size=(60, 2))
    trials = [create_trial(value=0.5) for _ in range(60)]
    assert clusters_of(points, trials) == []
    assert clusters_of(points[:3], trials[:3]) == []
    assert clusters_of(np.zeros((20, 2)), trials[:20]) == []


def test_one_trial_beside_the_best() -> None:
    study = resumed_study()
    figure = plot_trial(study, 2)
    drawn = {(t.name, t.xaxis): t for t in figure.data}
    assert list(drawn["trial 2", "x2"].y) == [0.9, 0.8]
    assert list(drawn["best, trial 3", "x2"].y) == [0.8, 0.6, 0.3, 0.1]
    assert len(drawn["trial 2", "x"].y) == len(drawn["best, trial 3", "x"].y) == 32
    forecast = drawn["forecast, 80 % (step 1)", "x2"]
    assert (forecast.x, forecast.y) == ((3,), (0.2,))
    np.testing.assert_allclose(forecast.error_y.array, [0.12816])
    assert drawn["bar 0.95", "x2"].y == (0.95, 0.95)
    assert figure.layout.title.text.startswith("<b>trial 2: pruned</b><br>step 1: stopped")
    best = plot_trial(study, 3)
    assert not any("best" in (t.name or "") for t in best.data)
    with pytest.raises(ValueError, match="numbered 0 to 3"):
        plot_trial(study, 4)


def test_a_bare_trial_says_what_it_lacks() -> None:
    study = optuna.create_study()
    add(study, TrialState.PRUNED)
    said = [a.text for a in plot_trial(study, 0).layout.annotations]
    assert said == ["no spectrum of trial 0 is stored", "trial 0 has reported nothing"]
