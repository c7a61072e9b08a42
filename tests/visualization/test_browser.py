"""A browser opens the dashboard and must find the figures drawn."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from optuna.trial import create_trial
from playwright.sync_api import Browser
from playwright.sync_api import Page
from playwright.sync_api import sync_playwright

from optuna_aelle import AeLLEPruner
from optuna_aelle import encode_spectrum
from optuna_aelle import report_spectrum
from optuna_aelle import save_dashboard_plots
from optuna_aelle.decisions.verdict import VERDICT_KEY
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.visualization import plot_latent_map
from optuna_aelle.visualization import plot_predictions
from optuna_aelle.visualization import plot_spectra
from optuna_aelle.visualization import plot_trial
from tests.conftest import skip_unless_required
from tests.ports import free_port
from tests.visualization.conftest import stored_forecast

pytestmark = pytest.mark.browser

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_MILLISECONDS = 120_000
"""How long a busy machine may take to load and draw a page."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    paths = [path for name in _BROWSERS if (path := shutil.which(name))]
    if not paths:
        skip_unless_required(f"no browser: none of {', '.join(_BROWSERS)} is on the PATH")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=paths[0], args=list(_QUIET), timeout=_MILLISECONDS
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('browser') / 'study.db'}"


@pytest.fixture(scope="module")
def study(make_study: Any, database: str) -> optuna.Study:
    """A study in a file, with a pruned trial and saved figures."""
    study: optuna.Study = make_study(20, storage=database)
    study.pruner = AeLLEPruner(optuna.pruners.ThresholdPruner(lower=0.0))
    study.optimize(hopeless, n_trials=1)
    save_dashboard_plots(study)
    return study


@pytest.fixture(scope="module")
def dashboard(study: optuna.Study, database: str) -> Iterator[str]:
    """The address of a dashboard that serves the study."""
    pytest.importorskip("optuna_dashboard")
    port = free_port()
    code = "from optuna_dashboard._cli import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", code, database, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(f"{address}/api/studies", server)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=10)


def hopeless(trial: optuna.Trial) -> float:
    # The dashboard divides by the number of parameters.
    trial.suggest_int("hidden", 8, 64)
    report_spectrum(trial, -0.1 * np.arange(1.0, 33.0), 0)
    trial.report(-1.0, 0)
    assert trial.should_prune()
    raise optuna.TrialPruned


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "optuna-dashboard ended at once"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    pytest.fail(f"optuna-dashboard did not answer at {url} within a minute")


@pytest.fixture
def page(browser: Browser, dashboard: str) -> Iterator[Page]:
    """A browser's page; the study's pages are under its base address."""
    context = browser.new_context(
        base_url=f"{dashboard}/dashboard/studies/1/",
        viewport={"width": 1600, "height": 2400},
    )
    context.set_default_timeout(_MILLISECONDS)
    errors: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    yield page
    context.close()
    assert not errors, "errors on the page's console"


def test_dashboard_page_draws_all_figures(page: Page) -> None:
    # Titles and marks are in the page only where plotly.js could draw the saved JSON.
    expected = {
        "aelle-spectra": ("Lyapunov exponent (nats per step)", ".js-line", 20),
        "aelle-latent-map": ("AeLLE latent space", ".point", 20),
        "aelle-predictions": ("within their 80 % interval", ".point", 16),
        "aelle-compute-saved": ("Optuna's default pruner, same networks", ".js-line", 4),
        "aelle-resumed": ("no network is saved", ".annotation-text", 1),
    }
    page.goto("../1")
    for name, (words, mark, least) in expected.items():
        plot = page.locator(f"[id='user-defined-plot:{name}']")
        plot.get_by_text(words).first.wait_for()
        plot.locator(mark).nth(least - 1).wait_for(state="attached")
    assert page.locator("[id^='user-defined-plot:']").count() == len(expected)


def test_trial_page_says_why_and_shows_no_spectra(page: Page, study: optuna.Study) -> None:
    last = study.trials[-1]
    verdict = decode_verdict(last)
    assert verdict is not None
    page.goto(f"trials?numbers={last.number}")
    page.get_by_text(f"aelle:decision {verdict.sentence()}").first.wait_for()
    page.get_by_text("aelle:lambda_1").first.wait_for()
    assert "exponents" not in page.content()


def test_trial_page_shows_its_note(page: Page, study: optuna.Study) -> None:
    page.goto(f"trials?numbers={study.trials[-1].number}")
    page.get_by_text("was the best when this was written").first.wait_for()
    text = page.locator("code").first.text_content()
    assert text is not None
    lines = [line.split()[0] for line in text.splitlines()]
    assert lines == ["spectrum", "trial", "curve", "trial"]


def test_table_shows_what_was_measured_and_decided(page: Page) -> None:
    # The dashboard has the table below what it is filtered by.
    page.goto("smartSelection")
    for column in ("aelle:lambda_1", "aelle:decision"):
        header = page.get_by_role("columnheader", name=column)
        header.wait_for(state="attached")
        assert header.count() == 1


RUNS = """
import sys, time, numpy as np, optuna
from optuna_aelle import DashboardCallback, report_spectrum
study = optuna.create_study(study_name="running", storage=sys.argv[1])
def objective(trial):
    x = trial.suggest_float("x", 0.0, 1.0)
    report_spectrum(trial, -(0.1 + x) * np.arange(1.0, 33.0), -1)
    for step in range(3):
        trial.report(x + 1.0 / (step + 1), step)
    time.sleep(0.3)
    return x
study.optimize(objective, n_trials=1000, callbacks=[DashboardCallback(2, 0.0)])
"""


@pytest.mark.slow
def test_figures_follow_a_study_that_is_running(
    page: Page, database: str, study: optuna.Study
) -> None:
    runs = subprocess.Popen([sys.executable, "-c", RUNS, database])
    try:
        deadline = time.monotonic() + _MILLISECONDS / 1000
        while "running" not in optuna.get_all_study_names(database):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        page.goto("../2")
        said = []
        order = []
        for _ in range(2):
            plot = page.locator("[id='user-defined-plot:aelle-compute-saved']")
            pattern = re.compile(r"Compute: \d+ of")
            plot.get_by_text(pattern).first.wait_for()
            if said:
                # Nobody reloads the page: the dashboard does, by itself.
                page.wait_for_function(
                    """([id, before]) => {
                        const title = document.getElementById(id)?.querySelector(".gtitle");
                        return title && title.textContent !== before;
                    }""",
                    arg=["user-defined-plot:aelle-compute-saved", said[-1]],
                )
            said.append(plot.locator(".gtitle").first.text_content())
            plots = page.locator("[id^='user-defined-plot:']")
            order.append([plots.nth(i).get_attribute("id") for i in range(plots.count())])
        assert runs.poll() is None
        assert said[0] != said[1]
        assert order[0] == order[1]
        assert len(order[0]) == 5
        page.locator("[id='user-defined-plot:aelle-spectra'] .js-line").nth(2).wait_for(
            state="attached"
        )
    finally:
        runs.kill()
        runs.wait()


HOSTILE = [
    "<img src=x onerror='window.pwned=1'>",
    "<script>window.pwned=1</script></script>",
    "<svg onload='window.pwned=1'>",
    "<a href='javascript:window.pwned=1'>click</a>",
    "[click](javascript:window.pwned=1)",
    "</script><script>window.pwned=1</script>",
    "%{customdata} `${window.pwned=1}`",
]


@pytest.fixture(scope="module")
def hostile(database: str, study: optuna.Study) -> optuna.Study:
    """Wherever a name or a text can stand, something that would run where it is not escaped."""
    hostile = optuna.create_study(study_name=f"x{HOSTILE[0]}", storage=database)
    hostile.set_user_attr(HOSTILE[1], HOSTILE[2])
    hostile.set_metric_names([HOSTILE[5]])
    cells = CategoricalDistribution(HOSTILE)
    for number in range(28):
        choice = HOSTILE[number % len(HOSTILE)]
        verdict = {"version": 1, "by": choice, "step": 0, "value": 0.5, "bar": 0.4, "rank": 2}
        verdict |= {"n_compared": 3, "rung": None, "risk": None, "trial": number}
        decay = 0.05 if number % len(HOSTILE) < 3 else 4.0
        hostile.add_trial(
            create_trial(
                state=TrialState.PRUNED if number % 4 == 3 else TrialState.COMPLETE,
                value=0.1 * number,
                params={"cell": choice, choice: 1.0},
                distributions={"cell": cells, choice: FloatDistribution(0.0, 2.0)},
                intermediate_values={0: 0.5},
                user_attrs={choice: choice, "aelle:decision": choice},
                system_attrs={VERDICT_KEY: verdict}
                | stored_forecast(0, 0.1 * number, 0.1)
                | encode_spectrum(-decay * np.arange(1.0, 17.0), -1),
            )
        )
    save_dashboard_plots(hostile)
    return hostile


def test_hostile_text_runs_nowhere_in_the_dashboard(
    page: Page, hostile: optuna.Study, study: optuna.Study
) -> None:
    page.on("dialog", lambda dialog: pytest.fail("a dialog"))
    number = optuna.get_all_study_names(hostile._storage).index(hostile.study_name) + 1
    page.goto(f"../{number}")
    page.locator("[id='user-defined-plot:aelle-latent-map'] .point").first.wait_for(
        state="attached"
    )
    page.locator("[id='user-defined-plot:aelle-latent-map'] .point").first.hover(force=True)
    for where, words in (
        (f"../{number}/trials?numbers=3", "when this was written"),
        (f"../{number}/smartSelection", "aelle:decision"),
        (f"../{number}/note", "How to read"),
    ):
        page.goto(where)
        page.get_by_text(words).first.wait_for()
        for link in page.locator("a[href^='javascript' i]").all():
            pytest.fail(f"a link that runs: {link.get_attribute('href')}")
        assert page.evaluate("window.pwned") is None


def test_hostile_text_runs_nowhere_in_an_exported_page(
    browser: Browser, hostile: optuna.Study, tmp_path: Path
) -> None:
    page = browser.new_page()
    page.on("dialog", lambda dialog: pytest.fail("a dialog"))
    for plot in (plot_spectra, plot_latent_map, plot_predictions, partial(plot_trial, number=3)):
        file = tmp_path / "page.html"
        plot(hostile).write_html(file)
        page.goto(file.as_uri())
        page.locator(".gtitle").first.wait_for(state="attached")
        assert page.evaluate("window.pwned") is None
        assert not page.locator(".js-plotly-plot img, .js-plotly-plot a[href^='java' i]").count()
    page.close()


def test_note_is_shown_without_its_markers(page: Page) -> None:
    page.goto("note")
    page.get_by_text("How to read the spectra").first.wait_for()
    assert "optuna-aelle:" not in page.content()
