"""UMAP runs elsewhere: whatever its process does or fails to do, the one that trains goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optuna_aelle._warnings import AeLLEWarning
from optuna_aelle.visualization import DashboardCallback
from optuna_aelle.visualization import _child
from optuna_aelle.visualization import _umap
from optuna_aelle.visualization import plot_latent_map
from optuna_aelle.visualization._frames import Frame
from optuna_aelle.visualization._frames import pack_request
from optuna_aelle.visualization._frames import read_frame
from optuna_aelle.visualization._frames import unpack_request
from optuna_aelle.visualization._frames import write_frame
from optuna_aelle.visualization._refresher import Refresher
from tests.test_threads import numba_has_threads

LATENT = np.random.default_rng(0).standard_normal((40, 5))
HEAD = """
import os, time
from optuna_aelle.visualization._frames import *
requests = os.fdopen(0, "rb", buffering=0)
answers = os.fdopen(1, "wb", buffering=0)
"""
# Stands in for UMAP: the first two columns.
READILY = """
write_frame(answers, Frame(READY, START))
while (frame := read_frame(requests)) is not None:
    points = unpack_request(frame.body)[0][:, :2]
    write_frame(answers, Frame(POINTS, frame.request, pack_points(points)))
"""

FakeWorker = Callable[[str], _umap._Client]
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes of POSIX")


@pytest.fixture
def fake_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_umap: _umap._Client
) -> FakeWorker:
    """A worker that runs the given lines instead of UMAP."""

    def make(lines: str) -> _umap._Client:
        (tmp_path / "fake_umap_worker.py").write_text(HEAD + lines)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(_umap, "_WORKER", "fake_umap_worker")
        return fresh_umap

    return make


def pid_of(client: _umap._Client) -> int:
    assert client._worker is not None
    return client._worker._process.pid


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(pid)


def test_frames_arrive_as_they_were_sent() -> None:
    from_, to = os.pipe()
    with os.fdopen(from_, "rb", buffering=0) as reader:
        with os.fdopen(to, "wb", buffering=0) as writer:
            write_frame(writer, Frame(1, 7, pack_request(LATENT, 123)))
            write_frame(writer, Frame(0, 0))
            writer.write(b"half a he")
        frame = read_frame(reader)
        assert frame is not None
        latent, random_state = unpack_request(frame.body)
        np.testing.assert_array_equal(latent, LATENT)
        assert (frame.kind, frame.request, random_state) == (1, 7, 123)
        assert read_frame(reader) == Frame(0, 0, b"")
        assert read_frame(reader) is None


def test_who_is_patient_gets_an_answer(fake_worker: FakeWorker) -> None:
    client = fake_worker(READILY)
    for seed in range(3):
        np.testing.assert_array_equal(client.points(LATENT, seed, 30.0), LATENT[:, :2])
    assert client._n_starts == 1


def test_who_is_not_patient_does_not_wait(fake_worker: FakeWorker) -> None:
    client = fake_worker("time.sleep(1.5)" + READILY)
    started = time.monotonic()
    assert client.points(LATENT, 0, 0.0) is None
    assert time.monotonic() - started < 1.0
    deadline = time.monotonic() + 30.0
    while (points := client.points(LATENT, 0, 0.0)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    np.testing.assert_array_equal(points, LATENT[:, :2])
    assert client._n_starts == 1


def test_patience_ends_with_a_warning(fake_worker: FakeWorker) -> None:
    client = fake_worker("time.sleep(60)")
    with pytest.warns(AeLLEWarning, match="not ready within 0 s; PCA is drawn"):
        assert client.points(LATENT, 0, 0.3) is None


def test_answers_to_requests_that_were_given_up_are_passed_over(
    fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = "    time.sleep(1.0 * (frame.request == 1))\n    points ="
    client = fake_worker(READILY.replace("    points =", pause))
    monkeypatch.setattr(_umap, "_FIT_SECONDS", 0.2)
    deadline = time.monotonic() + 30.0
    while client._request == 0:
        assert client.points(LATENT, 0, 0.0) is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    monkeypatch.setattr(_umap, "_FIT_SECONDS", 10.0)
    np.testing.assert_array_equal(client.points(2.0 * LATENT, 0, 0.0), 2.0 * LATENT[:, :2])


@posix
def test_a_killed_worker_is_started_once_more(fake_worker: FakeWorker) -> None:
    client = fake_worker(READILY)
    client.points(LATENT, 0, 30.0)
    first = pid_of(client)
    os.kill(first, signal.SIGKILL)
    np.testing.assert_array_equal(client.points(LATENT, 0, 30.0), LATENT[:, :2])
    assert pid_of(client) != first
    os.kill(pid_of(client), signal.SIGKILL)
    with pytest.warns(AeLLEWarning, match="exit status -9.*PCA is drawn from now on"):
        assert client.points(LATENT, 0, 30.0) is None
    assert client.points(LATENT, 0, 30.0) is None
    assert client._n_starts == 2


def test_a_worker_that_dies_at_once_is_given_up(fake_worker: FakeWorker) -> None:
    client = fake_worker("os._exit(3)")
    with pytest.warns(AeLLEWarning, match="exit status 3"):
        assert client.points(LATENT, 0, 30.0) is None
    assert client._n_starts == 2


def test_umap_that_cannot_be_imported_is_given_up(fake_worker: FakeWorker) -> None:
    client = fake_worker('write_frame(answers, Frame(ERROR, START, b"ImportError: numba"))')
    with pytest.warns(AeLLEWarning, match="ImportError: numba"):
        assert client.points(LATENT, 0, 30.0) is None
    assert client._n_starts == 1


def test_points_that_umap_refuses_are_one_warning(fake_worker: FakeWorker) -> None:
    answer = "Frame(POINTS, frame.request, pack_points(points))"
    client = fake_worker(READILY.replace(answer, 'Frame(ERROR, frame.request, b"too odd")'))
    with pytest.warns(AeLLEWarning, match="could not place 40 spectra .too odd"):
        assert client.points(LATENT, 0, 30.0) is None
    assert client._n_starts == 1


def test_an_interpreter_that_cannot_be_started(
    fresh_umap: _umap._Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.warns(AeLLEWarning, match="cannot be started"):
        assert fresh_umap.points(LATENT, 0, 30.0) is None


def test_without_umap_no_process_is_started(fresh_umap: _umap._Client, no_umap: None) -> None:
    assert fresh_umap.points(LATENT, 0, 30.0) is None
    assert fresh_umap._n_starts == 0


def test_the_worker_has_one_thread_and_no_warnings_as_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    environment = _child._environment()
    assert environment["OMP_NUM_THREADS"] == environment["NUMBA_NUM_THREADS"] == "1"
    assert "PYTHONWARNINGS" not in environment
    assert os.environ["OMP_NUM_THREADS"] == "8"


@posix
def test_a_forked_child_has_a_worker_of_its_own(fake_worker: FakeWorker) -> None:
    client = fake_worker(READILY)
    client.points(LATENT, 0, 30.0)
    child = os.fork()
    if child == 0:
        try:
            points = _umap.umap_points(LATENT, 0, 30.0)
            own = _umap._client is not client and client._worker is None
            _umap._client.close()
            os._exit(0 if own and np.array_equal(points, LATENT[:, :2]) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(client.points(LATENT, 0, 30.0), LATENT[:, :2])
    assert client._n_starts == 1


ASKS = """
    import os, sys, time
    import numpy as np
    from optuna_aelle.visualization import _umap
    _umap.umap_points(np.zeros((20, 3)), 0, 0.0)
    if "fork" in sys.argv and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print(_umap._client._worker._process.pid, flush=True)
"""


@posix
@pytest.mark.parametrize("forks", [False, True], ids=["alone", "with a child"])
@pytest.mark.parametrize("dies", ["by itself", "killed"])
def test_the_worker_ends_with_who_asked(dies: str, forks: bool) -> None:
    code = textwrap.dedent(ASKS) + ("" if dies == "by itself" else "time.sleep(60)\n")
    parent = subprocess.Popen(
        [sys.executable, "-c", code, *(["fork"] if forks else [])],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    try:
        worker = int(parent.stdout.readline())
        if dies == "killed":
            assert is_alive(worker)
            # Long enough to be in the middle of importing.
            time.sleep(0.5)
            parent.kill()
        parent.wait(timeout=30)
        assert ends(worker)
    finally:
        os.killpg(parent.pid, signal.SIGKILL) if forks else parent.kill()
        parent.stdout.close()
        parent.wait()


@pytest.mark.slow
def test_the_callback_draws_pca_until_umap_is_ready(
    make_study: Any, fresh_umap: _umap._Client, fresh_refresher: Refresher
) -> None:
    study = make_study(20)
    titles = []

    def title() -> str:
        custom_plot_data = pytest.importorskip("optuna_dashboard._custom_plot_data")
        attributes = study._storage.get_study_system_attrs(study._study_id)
        return str(custom_plot_data.get_plotly_graph_objects(attributes)["aelle-latent-map"])

    callback = DashboardCallback(1, 0.0)
    until = time.monotonic() + 180.0
    while not (titles and "(UMAP)" in titles[-1]) and time.monotonic() < until:
        started = time.monotonic()
        callback(study, study.trials[0])
        assert time.monotonic() - started < 5.0
        assert fresh_refresher.wait(120.0)
        titles.append(title())
    assert "(PCA)" in titles[0]
    assert "(UMAP)" in titles[-1]
    # Whoever draws here has a client of their own.
    assert fresh_umap._n_starts == 0
    assert plot_latent_map(study).layout.title.text.endswith("(UMAP)")
    assert fresh_umap._n_starts == 1
    assert "umap" not in sys.modules
    # Numba may be here for spectra, whose code runs in the thread that calls it.
    assert not numba_has_threads()
