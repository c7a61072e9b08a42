"""A browser opens the dashboard and must find the figures drawn."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
import pytest
from playwright.sync_api import Browser
from playwright.sync_api import Page
from playwright.sync_api import sync_playwright

from optuna_aelle import AeLLEPruner
from optuna_aelle import report_spectrum
from optuna_aelle import save_dashboard_plots
from optuna_aelle.decisions.verdict import decode_verdict
from tests.conftest import skip_unless_required

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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
        "aelle-predictions": ("predicted final value", ".point", 20),
        "aelle-compute-saved": ("Compute saved by pruning", ".js-line", 2),
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


def test_note_is_shown_without_its_markers(page: Page) -> None:
    page.goto("note")
    page.get_by_text("How to read the spectra").first.wait_for()
    assert "optuna-aelle:" not in page.content()
