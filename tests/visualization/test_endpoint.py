"""What figures and notes cost whoever has the dashboard open, at a thousand trials."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from optuna_aelle.visualization._panels import draw
from optuna_aelle.visualization._panels import keep
from optuna_aelle.visualization._trial_note import MOST_NOTES
from tests.visualization.test_dashboard import long_trials

N_TRIALS = 1000


def fetch(app: Any, query: str = "") -> tuple[bytes, float]:
    """The answer of the study endpoint, and the processor time that it took."""
    request: dict[str, Any] = {"PATH_INFO": "/api/studies/0", "QUERY_STRING": query}
    setup_testing_defaults(request)
    statuses: list[str] = []
    before = time.process_time()
    answer: Iterator[bytes] = app(request, lambda status, *_: statuses.append(status))
    body = b"".join(answer)
    assert statuses == ["200 OK"]
    return body, time.process_time() - before


@pytest.mark.slow
def test_the_study_endpoint_stays_small_and_fast(no_umap: None) -> None:
    """The page is loaded once; then the dashboard asks for what has changed every few seconds."""
    create_app = pytest.importorskip("optuna_dashboard._app").create_app
    study = optuna.create_study(direction="maximize")
    study.add_trials(long_trials(N_TRIALS))
    app = create_app(study._storage)
    fetch(app)
    plain, _ = fetch(app)
    keep(study, draw(study, most_notes=MOST_NOTES))
    whole, first = min((fetch(app) for _ in range(3)), key=lambda found: found[1])
    polled, again = min(
        (fetch(app, f"after={N_TRIALS - 20}") for _ in range(3)), key=lambda found: found[1]
    )
    assert len(json.loads(whole)["plotly_graph_objects"]) == 5
    # Most of the first answer are the trials themselves, which Optuna sends with their spaces.
    assert len(whole) - len(plain) < 500_000
    assert len(polled) < 1_000_000
    assert again < 0.5
    # 0.3 s where this was written; Optuna's own trials take most of it.
    assert first < 1.0
