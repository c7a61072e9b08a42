"""Figures must show what the trials hold: positions, colours and shares are checked by value."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
import pytest
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle import encode_spectrum
from optuna_aelle import report_spectrum
from optuna_aelle.decisions.verdict import VERDICT_KEY
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.continuation import enqueue_continuation
from optuna_aelle.visualization import plot_compute_saved
from optuna_aelle.visualization import plot_latent_map
from optuna_aelle.visualization import plot_predictions
from optuna_aelle.visualization import plot_race
from optuna_aelle.visualization import plot_spectra
from optuna_aelle.visualization._spectra import FINGERPRINT_AXIS
from tests.conftest import say
from tests.visualization.conftest import stored_forecast

PLOTS = [plot_spectra, plot_latent_map, plot_predictions, plot_compute_saved]
Plot = Callable[[optuna.Study], go.Figure]
DARK = "rgb(68, 1, 84)"

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
def test_multi_objective_study_is_refused(plot: Plot) -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    with pytest.raises(ValueError, match="multi-objective"):
        plot(study)


@every_plot
def test_json_holds_lists_and_only_finite_numbers(plot: Plot, make_study: Any) -> None:
    study = make_study(20)
    add(study, value=math.inf, system_attrs=encode_spectrum([-math.inf] * 4, 0))
    text = plot(study).to_json()
    assert "bdata" not in text

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    assert json.loads(text, parse_constant=refuse)["data"]


@every_plot
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


def test_predictions_by_step_with_their_errors(make_study: Any) -> None:
    study = make_study()
    for value, predicted in ((0.2, 0.25), (0.8, 0.5)):
        attributes = stored_forecast(-1, predicted, 0.1, share=0.2)
        attributes |= stored_forecast(3, value, 0.05)
        add(study, value=value, system_attrs=attributes)
    verdict = {"version": 1, "by": "AeLLE", "step": 3, "value": 0.3, "bar": 0.95, "rank": None}
    verdict |= {"n_compared": None, "rung": None, "risk": 0.05, "trial": 2}
    attributes = stored_forecast(3, 0.4, 0.1, chance=0.012) | {VERDICT_KEY: verdict}
    add(study, TrialState.PRUNED, value=0.3, system_attrs=attributes)
    figure = plot_predictions(study)
    traces = {trace.name: trace for trace in figure.data}
    untrained = traces["untrained"]
    assert untrained.x == (0.2, 0.8)
    assert untrained.y == (0.25, 0.5)
    assert list(untrained.error_y.array) == [0.1, 0.1]
    assert "chance of the best 20% (0.95): 90.0%" in untrained.text[0]
    assert traces["step 3"].y == (0.2, 0.8)
    pruned = traces["pruned, at the value reached"]
    assert (pruned.x, pruned.y, pruned.marker.symbol) == ((0.3,), (0.4,), "x")
    assert "predicted 0.4 ± 0.1<br>chance of the best so far (0.95): 1.2%" in pruned.text[0]
    assert "AeLLE gives a chance of 1.2%" in pruned.text[0]
    assert max(len(line) for line in pruned.text[0].split("<br>")) <= 80
    # 0.5 ± 0.1 misses 0.8, the three others hit.
    assert "75%" in figure.layout.title.text
    assert traces["exact"].x == traces["exact"].y


def test_unbounded_uncertainty_is_drawn_without_a_bar(make_study: Any) -> None:
    study = make_study()
    add(study, value=0.2, system_attrs=stored_forecast(0, 0.3, math.inf))
    assert list(plot_predictions(study).data[-1].error_y.array) == [0.0]


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
    traces = {trace.name: trace for trace in plot_compute_saved(study).data}
    assert traces["taken"].x == (0, 1, 2)
    assert traces["taken"].y == (10, 10, 12)
    assert traces["without pruning"].y == (10, 20, 30)
    assert "60% of 30 steps" in plot_compute_saved(study).layout.title.text


def test_compute_without_pruning_saves_nothing(make_study: Any) -> None:
    study = make_study()
    add(study, value=0.5, intermediate_values={9: 0.5, 19: 0.5})
    add(study, value=0.5)
    assert ": 0% of 38 steps" in plot_compute_saved(study).layout.title.text


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
        "print([m for m in ('umap', 'numba', 'optuna_dashboard', 'sklearn', 'torch')"
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
    spent, needed = plot_compute_saved(study).data
    assert list(spent.y) == [4, 6, 8, 10]
    assert list(needed.y) == [4, 8, 12, 12]
    lines = [d for d in plot_spectra(study).data if d.mode == "lines"]
    assert len(lines) == 3
    # What was expected of trial 1 is held against where its network ended.
    figure = plot_predictions(study)
    circles = [d for d in figure.data if d.marker.symbol == "circle"]
    found = {(x, y) for d in circles for x, y in zip(d.x, d.y, strict=True)}
    assert (0.1, 0.1) in found
    texts = [text for d in circles for text in d.text]
    assert any("trial 3, which goes on with trial 1" in text for text in texts)
