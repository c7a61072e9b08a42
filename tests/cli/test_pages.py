"""Exported pages in a real browser: complete, silent, and deaf to names that hold scripts."""

from __future__ import annotations

import shutil
from pathlib import Path

import optuna
import pytest

import optuna_aelle
from optuna_aelle.cli import main
from optuna_aelle.cli import plots
from optuna_aelle.visualization._latent_map import draw_latent_map
from tests.conftest import run_synthetic
from tests.conftest import skip_unless_required

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HOSTILE = "</title></script><script>window.hit=1</script><img src=x onerror='window.hit=1'>"


def test_pages_show_figures_fetch_nothing_and_run_no_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = pytest.importorskip("playwright.sync_api")
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        skip_unless_required("Chromium is not installed")
    in_memory = optuna.create_study(study_name=HOSTILE, pruner=optuna_aelle.AeLLEPruner())
    run_synthetic(in_memory, 16, n_steps=4)
    source = f"sqlite:///{tmp_path / 'my.db'}"
    study = optuna.create_study(study_name=HOSTILE, storage=source)
    study.add_trials(in_memory.trials)
    drawn = plots.figures() | {"latent-map": draw_latent_map}
    monkeypatch.setattr(plots, "figures", lambda: drawn)
    pages = {tmp_path / "trial.html": 1, tmp_path / "replay.html": 1}
    trial, replayed = (str(page) for page in pages)
    assert main(["explain", source, "--trial", "3", "--figure", trial]) == 0
    assert main(["replay", source, "--repeats", "1", "--figure", replayed]) == 0
    assert main(["plots", source, "--output", str(tmp_path / "all")]) == 0
    pages[tmp_path / "all" / "index.html"] = len(drawn)
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for path, n_figures in pages.items():
            page, errors, fetched = chromium.new_page(), [], []
            page.on("console", lambda said, to=errors: said.type == "error" and to.append(said))
            page.on("pageerror", lambda error, to=errors: to.append(str(error)))
            page.on("request", lambda request, to=fetched: to.append(request.url))
            page.goto(path.as_uri())
            page.wait_for_function(
                f"document.querySelectorAll('.plotly-graph-div .main-svg').length >= {n_figures}"
            )
            assert page.evaluate("window.hit") is None
            assert not errors
            assert fetched == [path.as_uri()]
            assert page.title().startswith("</title></script>")
            page.close()
        chromium.close()
