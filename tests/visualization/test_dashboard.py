"""What reaches the storage, and that a callback neither floods it nor harms the study."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import plotly.graph_objects as go
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.distributions import IntDistribution
from optuna.storages import BaseStorage
from optuna.storages import InMemoryStorage
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle._warnings import AeLLEWarning
from optuna_aelle._warnings import forget_warnings
from optuna_aelle.decisions.verdict import VERDICT_KEY
from optuna_aelle.prediction.forecast import decode_forecasts
from optuna_aelle.trials.continuation import CONTINUES_KEY
from optuna_aelle.trials.storage import study_system_attributes
from optuna_aelle.trials.storage import write_study_system_attribute
from optuna_aelle.visualization import DashboardCallback
from optuna_aelle.visualization import _dashboard
from optuna_aelle.visualization import _panels
from optuna_aelle.visualization import _trial_note
from optuna_aelle.visualization import save_dashboard_plots
from optuna_aelle.visualization._panels import PANELS_KEY
from optuna_aelle.visualization._panels import draw
from optuna_aelle.visualization._panels import keep
from optuna_aelle.visualization._refresher import Refresher
from optuna_aelle.visualization._trial_note import MOST_NOTES
from tests.visualization.conftest import stored_forecast
from tests.visualization.conftest import synthetic_trial

IDS = [
    "aelle-spectra",
    "aelle-latent-map",
    "aelle-predictions",
    "aelle-compute-saved",
    "aelle-resumed",
]
# How long a busy machine may take to start a process and draw.
SECONDS = 120.0


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
    for number, name in enumerate(IDS, 1):
        assert ":" not in name
        assert "bdata" not in plots[name]
        figure = json.loads(plots[name])
        assert figure["layout"]["title"]["text"].startswith(f"{number} · ")
        assert figure["data"] or name == "aelle-resumed"


def test_a_figure_of_a_thousand_trials_fits_one_attribute_of_mysql(no_umap: None) -> None:
    study = optuna.create_study(study_name="long " * 20, direction="maximize")
    study.add_trials(long_trials(1000))
    drawn = draw(study, most_notes=MOST_NOTES)
    for name, text in drawn.figures.items():
        assert len(json.dumps(text)) < 62_000, name
        assert json.loads(text)["data"]
    assert len(drawn.notes) == MOST_NOTES
    assert max(len(json.dumps(text)) for text in drawn.notes.values()) < 2_000


def long_trials(n: int) -> list[FrozenTrial]:
    """Networks that were forecast, pruned, resumed; with long curves and awkward numbers."""
    rng = np.random.default_rng(0)
    trials = [synthetic_trial(number, 8, rng) for number in range(n)]
    for number, trial in enumerate(trials):
        for step in (1, 3, 7):
            trial.system_attrs |= stored_forecast(step, float(rng.normal()) / 3.0, 1.0 / 3.0)
        if number > 500 and number % 7 == 0:
            payload = {"version": 1, "trial": number - 500, "step": 1, "given_up": False}
            trial.system_attrs[CONTINUES_KEY] = payload
        trial.params = {"hidden": number, "cell": "gru"}
        trial.distributions = {
            "hidden": IntDistribution(0, n),
            "cell": CategoricalDistribution(["gru", "lstm"]),
        }
    return trials


def test_pieces_that_an_earlier_version_left_are_emptied(make_study: Any, no_umap: None) -> None:
    study = make_study(12)
    figure = go.Figure(layout={"title": "old " * 2000})
    save_plotly_graph_object = pytest.importorskip("optuna_dashboard").save_plotly_graph_object
    save_plotly_graph_object(study, figure, graph_object_id="aelle-spectra")
    save_dashboard_plots(study)
    assert "spectra" in json.loads(saved_plots(study)["aelle-spectra"])["layout"]["title"]["text"]


def test_older_figures_never_replace_newer_ones(make_study: Any, no_umap: None) -> None:
    study = make_study(12)
    older = draw(study, most_notes=0)
    study.add_trial(create_trial(value=0.5))
    newer = draw(study, most_notes=0)
    keep(study, newer)
    keep(study, older)
    assert saved_plots(study) == dict(newer.figures)


def test_one_figure_that_fails_leaves_the_others(
    make_study: Any, no_umap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(study: optuna.Study) -> go.Figure:
        raise RuntimeError("<b>broken</b>")

    monkeypatch.setitem(_panels.PANELS, "aelle-compute-saved", fail)
    study = make_study(12)
    with pytest.warns(AeLLEWarning, match="'aelle-compute-saved' of 'study' could not be drawn"):
        save_dashboard_plots(study)
    plots = saved_plots(study)
    (said,) = json.loads(plots["aelle-compute-saved"])["layout"]["annotations"]
    assert said["text"] == "Could not be drawn: &lt;b&gt;broken&lt;/b&gt;"
    assert json.loads(plots["aelle-spectra"])["data"]


def test_one_note_that_fails_leaves_the_others(
    make_study: Any, no_umap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain = _trial_note.explain_one

    def fail(study: optuna.Study, trial: Any, trials: Any) -> Any:
        if trial.number in (2, 5):
            raise RuntimeError(f"broken at {trial.number}")
        return explain(study, trial, trials)

    monkeypatch.setattr(_trial_note, "explain_one", fail)
    study = make_study(12)
    with pytest.warns(AeLLEWarning, match="no note on trial") as caught:
        save_dashboard_plots(study)
    assert len([w for w in caught if "no note" in str(w.message)]) == 1
    assert json.loads(saved_plots(study)["aelle-spectra"])["data"]
    assert _trial_note.noted_trials(study) == {*range(12)} - {2, 5}


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
        assert len(after[name]) < len(before[name]) or name == "aelle-resumed"
        assert json.loads(after[name])["layout"]["annotations"]


def test_missing_dashboard_says_what_to_install(
    make_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(ImportError, match=r"pip install optuna-aelle\[dashboard\]"):
        save_dashboard_plots(make_study())


class FakeRefresher:
    """Does as if it drew, for as long as `draws`; or fails."""

    def __init__(self, draws: Any = None) -> None:
        self.draws = draws
        self.n_asked = 0
        self.n_at_once = 0
        self.most_at_once = 0

    def ask(self, study: optuna.Study, ended: Any) -> None:
        self.n_asked += 1
        self.n_at_once += 1
        self.most_at_once = max(self.most_at_once, self.n_at_once)

        def draw() -> None:
            failure = None
            try:
                if self.draws is not None:
                    self.draws()
            except Exception as error:
                failure = error
            self.n_at_once -= 1
            ended(failure)

        if self.draws is None:
            draw()
        else:
            threading.Thread(target=draw).start()


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
    fake = FakeRefresher()
    monkeypatch.setattr(_dashboard.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(_dashboard, "refresher", lambda: fake)
    study = make_study(1)
    callback = DashboardCallback(every, seconds)
    for number in range(1, 13):
        clock[0] += 1.0
        callback(study, study.trials[0])
        if fake.n_asked > len(seen):
            seen.append(number)
    assert seen == expected


def test_one_refresh_at_a_time(make_study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRefresher(draws=lambda: time.sleep(0.01))
    monkeypatch.setattr(_dashboard, "refresher", lambda: fake)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        make_study().optimize(
            objective, n_trials=60, n_jobs=4, callbacks=[DashboardCallback(3, 0.0)]
        )
    assert 1 <= fake.n_asked <= 20
    assert fake.most_at_once == 1


def test_failure_is_one_warning_and_the_study_goes_on(
    make_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(study: optuna.Study, ended: Any) -> None:
        fake.n_asked += 1
        raise RuntimeError("the disk is full")

    fake = FakeRefresher()
    monkeypatch.setattr(fake, "ask", ask)
    monkeypatch.setattr(_dashboard, "refresher", lambda: fake)
    study = make_study()
    with pytest.warns(AeLLEWarning, match="the disk is full") as caught:
        study.optimize(objective, n_trials=6, callbacks=[DashboardCallback(2, 0.0)])
    assert len(study.trials) == 6
    assert fake.n_asked == 3
    assert len([w for w in caught if w.category is AeLLEWarning]) == 1


def test_plots_appear_while_threads_optimize(
    storage: Any, fresh_refresher: Refresher, make_study: Any
) -> None:
    """In every storage: one that the other process opens, and one that is sent to it."""
    study = make_study(16, storage=storage)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        study.optimize(objective, n_trials=6, n_jobs=2, callbacks=[DashboardCallback(3, 0.0)])
        assert fresh_refresher.wait(SECONDS)
    plots = saved_plots(study)
    assert sorted(plots) == sorted(IDS)
    assert all(json.loads(plots[name])["data"] for name in IDS[:-1])
    assert "Spectra" in pytest.importorskip("optuna_dashboard").get_note(study)
    assert trial_note(study, 0).startswith("**complete**")


def test_several_objectives_are_drawn_too(fresh_refresher: Refresher) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", AeLLEWarning)
        study.optimize(lambda trial: (0.0, 1.0), n_trials=2, callbacks=[DashboardCallback(1, 0)])
        assert fresh_refresher.wait(SECONDS)
    assert sorted(saved_plots(study)) == sorted(IDS)


@pytest.mark.slow
def test_a_process_that_dies_is_started_again(
    fresh_refresher: Refresher, make_study: Any, tmp_path: Path
) -> None:
    study = make_study(6, storage=f"sqlite:///{tmp_path / 'study.db'}")
    callback = DashboardCallback(1, 0.0)
    callback(study, study.trials[0])
    assert fresh_refresher.wait(SECONDS)
    assert fresh_refresher._process is not None
    first = fresh_refresher._process.pid
    os.kill(first, signal.SIGKILL)
    callback(study, study.trials[0])
    assert fresh_refresher.wait(SECONDS)
    # Whether it was found dead, or died while it was asked: the next time another one is.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AeLLEWarning)
        callback(study, study.trials[0])
        assert fresh_refresher.wait(SECONDS)
    assert fresh_refresher._process is not None
    assert fresh_refresher._process.pid != first


def test_without_another_process_one_warning(
    fresh_refresher: Refresher, make_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    study = make_study(6)
    callback = DashboardCallback(1, 0.0)

    def ask_often() -> None:
        for _ in range(3):
            callback(study, study.trials[0])
            assert fresh_refresher.wait(SECONDS)

    with pytest.warns(AeLLEWarning, match="could not be refreshed") as caught:
        ask_often()
    assert len([w for w in caught if w.category is AeLLEWarning]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "journal"])
def test_refreshing_a_thousand_trials_costs_this_process_little(
    kind: str, fresh_refresher: Refresher, tmp_path: Path
) -> None:
    """Counted in seconds of processor time, which no other load on the machine changes."""
    storage: BaseStorage = InMemoryStorage()
    if kind == "journal":
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
    study = optuna.create_study(direction="maximize", storage=storage)
    study.add_trials(long_trials(1000))
    callback = DashboardCallback(1, 0.0)
    seconds = []
    for _ in range(2):
        before = time.process_time() - time.thread_time()
        callback(study, study.trials[0])
        assert fresh_refresher.wait(SECONDS)
        seconds.append(time.process_time() - time.thread_time() - before)
    assert sorted(saved_plots(study)) == sorted(IDS)
    # In slices of a trial each; drawing takes ten times as long.
    assert seconds[1] < (0.1 if kind == "journal" else 1.0)


WRITES = """
import sys, optuna, warnings
warnings.simplefilter("error")
from optuna_aelle.visualization import DashboardCallback
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.load_study(study_name="study", storage=sys.argv[1])
def objective(trial):
    x = trial.suggest_float("x", 0.0, 1.0)
    trial.report(x, 0)
    return x
study.optimize(objective, n_trials=15, callbacks=[DashboardCallback(1, 0.0)])
print("done", flush=True)
"""


@pytest.mark.slow
def test_several_processes_lose_and_corrupt_nothing(make_study: Any, tmp_path: Path) -> None:
    """Whenever somebody looks, every figure is whole; in the end nothing is left running."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = make_study(16, storage=url)
    mark = f"AELLE_TEST_MARK={tmp_path}"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITES, url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | dict([mark.split("=")]),
        )
        for _ in range(3)
    ]
    seen: list[int] = []
    deadline = time.monotonic() + SECONDS
    n_processes = 0
    while any(writer.poll() is None for writer in writers):
        n_processes = max(n_processes, len(_processes_with(mark)))
        assert time.monotonic() < deadline
        for text in saved_plots(study).values():
            json.loads(text)
        panels = study._storage.get_study_system_attrs(study._study_id).get("aelle:panels")
        seen.append(-1 if panels is None else panels["ended"])
        time.sleep(0.02)
    for writer in writers:
        out, err = writer.communicate()
        assert (out, err, writer.returncode) == (b"done\n", b"", 0)
    # UMAP's process, which is its child's, hears of it through the pipe between them.
    deadline = time.monotonic() + 10.0
    while (left := _processes_with(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    assert n_processes > len(writers) or not Path("/proc").exists()
    # A little behind, but it never went back.
    assert seen == sorted(seen)
    assert seen[-1] > 16
    assert sorted(saved_plots(study)) == sorted(IDS)
    assert len(study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])) == 16 + 45


def _processes_with(mark: str) -> list[str]:
    """The commands of the processes that have inherited an environment variable."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text())
        except OSError:  # of somebody else, or gone
            continue
    return found


def trial_note(study: optuna.Study, number: int) -> str:
    note = pytest.importorskip("optuna_dashboard._note")
    attributes = study._storage.get_study_system_attrs(study._study_id)
    trial_id = study._storage.get_all_trials(study._study_id)[number]._trial_id
    return str(note.get_note_from_system_attrs(attributes, trial_id)["body"])


def test_notes_of_trials_by_their_user_stay(make_study: Any, no_umap: None) -> None:
    note = pytest.importorskip("optuna_dashboard._note")
    study = make_study(4)
    ids = [t._trial_id for t in study._storage.get_all_trials(study._study_id)]
    note.save_note_with_version(study._storage, study._study_id, ids[1], 1, "mine")
    # Whoever has emptied a note does not want one.
    note.save_note_with_version(study._storage, study._study_id, ids[2], 1, "")
    save_dashboard_plots(study)
    save_dashboard_plots(study)
    assert trial_note(study, 1) == "mine"
    assert trial_note(study, 2) == ""
    assert "spectrum" in trial_note(study, 0)
    # Written once: whoever edits it meanwhile keeps what they wrote.
    note.save_note_with_version(study._storage, study._study_id, ids[0], 2, "edited")
    save_dashboard_plots(study)
    assert trial_note(study, 0) == "edited"


def test_a_note_shows_the_trial_beside_the_best(make_study: Any, no_umap: None) -> None:
    study = make_study(8)
    save_dashboard_plots(study)
    best = study.best_trial.number
    pruned = trial_note(study, 4)
    assert pruned.startswith("**pruned**, ")
    lines = [line for line in pruned.splitlines() if line.startswith(("spectrum", "  trial"))]
    assert [line.split()[0] for line in lines] == ["spectrum", "trial", "trial"]
    assert f"trial {best}" in lines[1]
    forecast = decode_forecasts(study.trials[4])[0]
    low, high = forecast.interval
    assert f"{forecast.value:.4g}, 80 % between {low:.4g} and {high:.4g}" in pruned
    assert "trial" not in trial_note(study, best).split("```")[1]


def test_values_far_apart_have_a_note(no_umap: None) -> None:
    """As far as no number is large."""
    study = optuna.create_study()
    study.add_trial(create_trial(value=1.0, intermediate_values={0: 1e308, 1: -1e308, 2: 1.0}))
    assert "█▁▅" in draw(study, most_notes=1).notes[0]


def test_progress_damaged_by_hand_is_none(no_umap: None) -> None:
    study = optuna.create_study()
    write_study_system_attribute(study, PANELS_KEY, {"ended": float("inf"), "seen": 1})
    keep(study, draw(study, most_notes=0))
    assert study_system_attributes(study)[PANELS_KEY] == {"ended": 0, "seen": 0}


def test_text_of_others_is_no_markdown_and_no_html(no_umap: None) -> None:
    study = optuna.create_study()
    verdict = {"version": 1, "by": "<img src=x onerror=alert(1)>[a](javascript:alert(1))"}
    verdict |= {"step": 0, "value": 0.5, "bar": None, "rank": 1, "n_compared": 1, "rung": None}
    attributes = {VERDICT_KEY: verdict | {"risk": None, "trial": 0}}
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED, intermediate_values={0: 0.5}, system_attrs=attributes
        )
    )
    (note,) = draw(study, most_notes=1).notes.values()
    assert "\\<img src=x onerror=alert\\(1\\)\\>\\[a\\]\\(javascript:" in note


@pytest.mark.parametrize(
    ("every", "seconds", "name"),
    [(0, 1.0, "every_n_trials"), (1, -1.0, "min_seconds"), (1, float("nan"), "min_seconds")],
)
def test_callback_refuses_bad_arguments(every: int, seconds: float, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        DashboardCallback(every, seconds)
