"""What reaches the storage, and that a callback neither floods it nor harms the study."""

from __future__ import annotations

import json
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from optuna_aelle._warnings import AeLLEWarning
from optuna_aelle._warnings import forget_warnings
from optuna_aelle.visualization import DashboardCallback
from optuna_aelle.visualization import _dashboard
from optuna_aelle.visualization import save_dashboard_plots

IDS = ["aelle-spectra", "aelle-latent-map", "aelle-predictions", "aelle-compute-saved"]


@pytest.fixture(autouse=True)
def fresh_warnings() -> Iterator[None]:
    forget_warnings()
    yield
    forget_warnings()


def saved_plots(study: optuna.Study) -> dict[str, str]:
    """The plots as the dashboard's own code reads them."""
    custom_plot_data = pytest.importorskip("optuna_dashboard._custom_plot_data")
    attributes = study._storage.get_study_system_attrs(study._study_id)
    plots: dict[str, str] = custom_plot_data.get_plotly_graph_objects(attributes)
    return plots


def objective(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0.0, 1.0)


@pytest.mark.slow
def test_saved_plots_are_small_and_readable(make_study: Any, tmp_path: Path) -> None:
    study = make_study(200, n_spectra=8, storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert save_dashboard_plots(study) == IDS
    plots = saved_plots(study)
    assert sorted(plots) == sorted(IDS)
    for name, text in plots.items():
        assert ":" not in name
        assert len(text) < 200_000
        assert "bdata" not in text
        assert json.loads(text)["data"]


def test_saving_again_replaces(make_study: Any) -> None:
    study = make_study(12)
    save_dashboard_plots(study)
    before = saved_plots(study)
    # No trials are left to the figures, which shrink: no piece of the old ones may survive.
    for trial in study._storage.get_all_trials(study._study_id, deepcopy=False):
        trial.state = optuna.trial.TrialState.FAIL
    save_dashboard_plots(study)
    after = saved_plots(study)
    assert sorted(after) == sorted(IDS)
    for name in IDS:
        assert len(after[name]) < len(before[name])
        assert json.loads(after[name])["layout"]["annotations"]


def test_missing_dashboard_says_what_to_install(
    make_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(ImportError, match=r"pip install optuna-aelle\[dashboard\]"):
        save_dashboard_plots(make_study())


@pytest.mark.parametrize(
    ("every", "seconds", "expected"),
    [
        # Each trial takes one second of the mocked clock.
        (1, 0.0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        (5, 0.0, [5, 10]),
        (5, 7.0, [5, 12]),
        (1, 4.0, [1, 5, 9]),
        (13, 0.0, []),
    ],
)
def test_throttle(
    every: int,
    seconds: float,
    expected: list[int],
    make_study: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1000.0]
    seen: list[int] = []
    monkeypatch.setattr(_dashboard.time, "monotonic", lambda: clock[0])

    def save(study: optuna.Study) -> list[str]:
        seen.append(int(clock[0] - 1000.0))
        return []

    monkeypatch.setattr(_dashboard, "_save", save)
    study = make_study(1)
    callback = DashboardCallback(every, seconds)
    for _ in range(12):
        clock[0] += 1.0
        callback(study, study.trials[0])
    assert seen == expected


def test_threads_never_save_at_once(make_study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = threading.Lock()
    n_saves = 0

    def save(study: optuna.Study) -> list[str]:
        nonlocal n_saves
        assert lock.acquire(blocking=False), "two refreshes at once"
        time.sleep(0.01)
        n_saves += 1
        lock.release()
        return []

    monkeypatch.setattr(_dashboard, "_save", save)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        make_study().optimize(
            objective, n_trials=60, n_jobs=4, callbacks=[DashboardCallback(3, 0.0)]
        )
    assert 1 <= n_saves <= 20


def test_plots_appear_while_threads_optimize(make_study: Any, tmp_path: Path) -> None:
    study = make_study(16, storage=f"sqlite:///{tmp_path / 'study.db'}")
    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        study.optimize(objective, n_trials=6, n_jobs=2, callbacks=[DashboardCallback(3, 0.0)])
    assert sorted(saved_plots(study)) == sorted(IDS)


def test_failure_is_one_warning_and_the_study_goes_on(
    make_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    def fail(study: optuna.Study) -> list[str]:
        nonlocal attempts
        attempts += 1
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(_dashboard, "_save", fail)
    study = make_study()
    with pytest.warns(AeLLEWarning, match="the disk is full") as caught:
        study.optimize(objective, n_trials=6, callbacks=[DashboardCallback(2, 0.0)])
    assert len(study.trials) == 6
    assert attempts == 3
    assert len([w for w in caught if w.category is AeLLEWarning]) == 1


def test_multi_objective_study_is_warned_about_and_goes_on() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.warns(AeLLEWarning, match="multi-objective"):
        study.optimize(lambda trial: (0.0, 1.0), n_trials=2, callbacks=[DashboardCallback(1, 0)])
    assert len(study.trials) == 2


@pytest.mark.parametrize(
    ("every", "seconds", "name"),
    [(0, 1.0, "every_n_trials"), (1, -1.0, "min_seconds"), (1, float("nan"), "min_seconds")],
)
def test_callback_refuses_bad_arguments(every: int, seconds: float, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        DashboardCallback(every, seconds)
