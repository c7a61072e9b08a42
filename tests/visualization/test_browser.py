"""A browser opens the dashboard and must find the figures drawn."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from optuna_aelle import AeLLEPruner
from optuna_aelle import report_spectrum
from optuna_aelle import save_dashboard_plots
from optuna_aelle.decisions.verdict import decode_verdict
from tests.conftest import skip_unless_required

pytestmark = pytest.mark.browser

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser() -> str:
    for name in _BROWSERS:
        if path := shutil.which(name):
            return path
    skip_unless_required(f"no browser: none of {', '.join(_BROWSERS)} is on the PATH")


@pytest.fixture
def dashboard(make_study: Any, tmp_path: Path) -> Iterator[str]:
    """The address of a dashboard that serves a study with saved figures."""
    pytest.importorskip("optuna_dashboard")
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = make_study(20, storage=storage)
    study.pruner = AeLLEPruner(optuna.pruners.ThresholdPruner(lower=0.0))
    study.optimize(hopeless, n_trials=1)
    save_dashboard_plots(study)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from optuna_dashboard._cli import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", code, storage, "--host", "127.0.0.1", "--port", str(port)],
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
def page_of(browser: str, dashboard: str, tmp_path: Path) -> Callable[[str], str]:
    """What a browser makes of a page of the study."""

    def load(address: str) -> str:
        return subprocess.run(
            [
                browser,
                *_QUIET,
                f"--user-data-dir={tmp_path / 'profile'}",
                "--window-size=1600,2400",
                "--virtual-time-budget=15000",
                "--dump-dom",
                f"{dashboard}/dashboard/studies/1{address}",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout

    return load


def test_dashboard_page_draws_all_figures(page_of: Callable[[str], str]) -> None:
    pieces = re.split(r'id="user-defined-plot:', page_of(""))[1:]
    drawn = {piece.split('"', 1)[0]: piece for piece in pieces}
    # Titles and marks are in the page only where plotly.js could draw the saved JSON.
    expected = {
        "aelle-spectra": ("Lyapunov exponent (nats per step)", "js-line", 20),
        "aelle-latent-map": ("AeLLE latent space", 'class="point"', 20),
        "aelle-predictions": ("predicted final value", 'class="point"', 20),
        "aelle-compute-saved": ("Compute saved by pruning", "js-line", 2),
    }
    assert drawn.keys() == expected.keys()
    for name, (words, mark, least) in expected.items():
        assert words in drawn[name]
        assert drawn[name].count(mark) >= least


def test_trial_page_says_why_and_shows_no_spectra(
    page_of: Callable[[str], str], tmp_path: Path
) -> None:
    study = optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path / 'study.db'}")
    last = study.trials[-1]
    verdict = decode_verdict(last)
    assert verdict is not None
    page = page_of(f"/trials?numbers={last.number}")
    assert f"aelle:decision {verdict.sentence()}" in page
    assert "aelle:lambda_1" in page
    assert "exponents" not in page


def test_note_is_shown_without_its_markers(page_of: Callable[[str], str]) -> None:
    page = page_of("/note")
    assert "How to read the spectra" in page
    assert "optuna-aelle:" not in page
