"""The studies from end to end: command line, resume, interruption, killed workers."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from optuna_aelle import decode_spectra
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.trials.continuation import origin_of
from optuna_aelle.trials.cost import trained_steps
from studies.against import compare
from studies.arguments import device
from studies.arguments import n_jobs
from studies.digits import Digits
from studies.recall import Recall
from studies.search import WorkerSampler
from studies.search import main
from studies.search import make_samplers
from studies.search import optimize
from studies.training import build_network
from studies.training import train

ROOT = Path(__file__).parent.parent
PARAMS = {
    "cell": "gru",
    "hidden_size": 16,
    "init_gain": 1.0,
    "learning_rate": 5e-3,
    "weight_decay": 1e-4,
    "clipping": 1.0,
    "forget_bias": 1.0,
}


@pytest.fixture(autouse=True)
def _one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    threads = torch.get_num_threads()
    # Checkpoints lie where a study is run.
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


def test_a_study_runs_resumes_and_sums_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    options = ["--storage", url, "--epochs", "2"]
    main(Recall(), [*options, "--trials", "3"])
    main(Recall(), [*options, "--trials", "5"])
    printed = capsys.readouterr().out
    assert "Resuming 'recall': 3 of 5 trials are done." in printed
    assert "recall: 5 trials" in printed
    assert "of the 10 of an unpruned study" in printed
    assert f"optuna-dashboard {url}" in printed
    study = optuna.load_study(study_name="recall", storage=url)
    # One that was stopped may go on, or wait for it: when depends on how long spectra take.
    ended = [t for t in study.trials if t.state.is_finished()]
    assert len(ended) == 5
    networks = one_a_network(ended)
    assert len({json.dumps(t.params, sort_keys=True) for t in networks}) == len(networks)
    assert all(-1 in decode_spectra(t) for t in ended)


def test_a_study_goes_on_where_a_network_was_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And beside it, on demand, the same search under Optuna's defaults."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    options = ["--storage", url, "--epochs", "5", "--trials", "16", "--against", "defaults"]
    main(Recall(), [*options, "--no-plots"])
    study = optuna.load_study(study_name="recall", storage=url)
    rival = optuna.load_study(study_name="recall-defaults", storage=url)
    assert len(rival.trials) == 16
    resumed = [t for t in study.trials if origin_of(t) is not None]
    assert resumed
    printed = capsys.readouterr().out
    spent = sum(trained_steps(study.trials))
    assert f"{spent} of the" in printed
    # A network is the same whoever trains it, in one go or two.
    further = max(resumed, key=lambda t: len(t.intermediate_values))
    curve = list(further.intermediate_values.values())
    straight = list(train(Recall(), further.params, n_epochs=len(curve), seed=0))
    assert [e.value for e in straight[1:]] == curve
    assert "AeLLE              " in printed
    assert "Optuna's defaults  " in printed
    equal = min(spent, sum(trained_steps(rival.trials)))
    assert f"After {equal} epochs: AeLLE " in printed
    assert (tmp_path / "recall-against-defaults.png").stat().st_size > 10_000
    # A name is no path, and who is compared is said.
    odd = optuna.create_study(study_name="own/recall", direction=study.direction)
    odd.add_trials(study.trials)
    text = compare(Recall(), odd, rival, "tpe + median")
    assert "tpe + median       " in text
    assert "AeLLE" not in text
    assert (tmp_path / "own%2Frecall-against-defaults.png").exists()


@pytest.mark.parametrize("pruner", ["aelle", "defaults", "median", "hyperband", "sha", "none"])
@pytest.mark.parametrize("sampler", ["aelle", "defaults", "tpe", "random"])
def test_every_pruner_with_every_sampler(
    pruner: str, sampler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = ["--pruner", pruner, "--sampler", sampler, "--checkpoints", str(tmp_path)]
    arguments = ["--trials", "2", "--epochs", "1", "--storage", "sqlite://", "--no-plots"]
    main(Digits(), [*arguments, *choice, "--study-name", f"{pruner}-{sampler}"])
    assert "digits: 2 trials" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--n-jobs 0", "argument --n-jobs: expected at least 1, or -1 for one a core, got 0"),
        ("--n-jobs -2", "argument --n-jobs: expected at least 1, or -1 for one a core, got -2"),
        ("--device warp", "argument --device: expected a device that torch can use here (cpu"),
        ("--device meta", "argument --device: expected a device that torch can use here (cpu"),
        ("--device cuda:99", "argument --device: expected a device that torch can use here (cpu"),
        ("--seed -1", "argument --seed: expected an integer of at least 0, got -1"),
        ("--seed x", "argument --seed: expected an integer of at least 0, got x"),
        ("--trials 0", "argument --trials: expected an integer of at least 1, got 0"),
        ("--storage my.db", "argument --storage: expected a storage that Optuna can open"),
        ("--storage foo://x", "argument --storage: expected a storage that Optuna can open"),
        ("--cells gru,elman,S7", "got 'elman', 's7'"),
        ("--cells rnn,,gru", "argument --cells: expected names among rnn, lstm, gru, mingru"),
        ("--pruner none --sampler x", "argument --sampler: invalid choice: 'x'"),
    ],
)
def test_mistakes_are_told_apart_from_crashes(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(Recall(), arguments.split())
    assert left.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed.splitlines()[-1]
    assert "Traceback" not in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="got cuda"):
        device("cuda")


def test_one_job_a_core_is_optunas_minus_one() -> None:
    assert n_jobs("-1") == -1
    assert n_jobs("3") == 3


def test_parallel_jobs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    main(Recall(), ["--storage", url, "--epochs", "1", "--trials", "6", "--n-jobs", "4"])
    study = optuna.load_study(study_name="recall", storage=url)
    assert all(t.state.is_finished() for t in study.trials)
    assert len(study.trials) == 6


@pytest.mark.parametrize("name", ["aelle", "tpe", "random"])
def test_workers_of_one_seed_draw_what_no_other_draws(name: str) -> None:
    def draw(study: optuna.Study, worker: WorkerSampler) -> dict[str, Any]:
        study.sampler = worker
        trial = study.ask()
        Recall().suggest(trial)
        study.tell(trial, float(trial.number))
        return trial.params

    def begin(study: optuna.Study) -> WorkerSampler:
        n_drawn = len(study.trials)
        return WorkerSampler(make_samplers(Recall(), 0, n_drawn)[name](), n_drawn)

    def alone(n: int) -> list[dict[str, Any]]:
        study = optuna.create_study()
        worker: Any = make_samplers(Recall(), 0)[name]()
        return [draw(study, worker) for _ in range(n)]

    study = optuna.create_study()
    worker = begin(study)
    assert [draw(study, worker) for _ in range(6)] == alone(6)

    shared = optuna.create_study()
    workers = [begin(shared), begin(shared)]
    drawn = [draw(shared, workers[i % 2]) for i in range(6)]
    late = [begin(shared), begin(shared)]
    drawn += [draw(shared, late[i]) for i in (0, 1)]
    assert drawn[0] == alone(1)[0]
    assert len({json.dumps(params, sort_keys=True) for params in drawn}) == 8


def test_a_worker_that_starts_during_the_first_trial_draws_something_else() -> None:
    study = optuna.create_study(storage="sqlite://")
    params = []
    for _ in range(2):  # neither ends
        n_drawn = len(study.trials)
        study.sampler = WorkerSampler(make_samplers(Recall(), 0, n_drawn)["tpe"](), n_drawn)
        params.append(Recall().suggest(study.ask()))
    assert params[0] != params[1]


def _start(url: str, folder: Path, trials: int, epochs: int = 30) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "studies.recall", "--storage", url, "--no-plots"]
    return subprocess.Popen(
        [*command, "--trials", str(trials), "--epochs", str(epochs)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait_for_trials(url: str, n: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if len(optuna.load_study(study_name="recall", storage=url).trials) >= n:
                return
        except (KeyError, Exception):
            pass
        time.sleep(0.3)
    raise TimeoutError("the study did not get going")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_study_resumes(how: signal.Signals, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    process = _start(url, tmp_path, trials=200)
    _wait_for_trials(url, 3)
    process.send_signal(how)
    output, _ = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert "The same command resumes the study." in output
        assert "Traceback" not in output
    study = optuna.load_study(study_name="recall", storage=url)
    ended = sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in study.trials)
    main(Recall(), ["--storage", url, "--epochs", "1", "--trials", str(ended + 2), "--no-plots"])
    states = [t.state for t in study.trials]
    assert sum(s in (TrialState.COMPLETE, TrialState.PRUNED) for s in states) == ended + 2


def test_a_trial_that_another_worker_has_ended_ends_no_search() -> None:
    study = optuna.create_study()

    def ended_elsewhere(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        if trial.number == 1:
            study.tell(trial.number, x)
        return x

    optimize(study, ended_elsewhere, 4, 1, [])
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 4

    def broken(trial: optuna.Trial) -> float:
        raise ValueError("of another kind")

    with pytest.raises(ValueError, match="of another kind"):
        optimize(study, broken, 6, 1, [])


@pytest.mark.slow
def test_two_workers_of_one_command_share_its_trials(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="recall", storage=url)
    workers = [_start(url, tmp_path, trials=10, epochs=2) for _ in range(2)]
    for worker in workers:
        output, _ = worker.communicate(timeout=120)
        assert worker.returncode == 0, output
    ended = [t for t in study.trials if t.state != TrialState.WAITING]
    # One worker may be in the middle of a trial when the other ends the tenth.
    assert 10 <= len(ended) <= 11
    networks = one_a_network(ended)
    assert len({json.dumps(t.params, sort_keys=True) for t in networks}) == len(networks)


def test_a_training_is_a_function_of_task_parameters_and_seed() -> None:
    first = list(train(Digits(), PARAMS, n_epochs=2, seed=3))
    torch.manual_seed(99)
    second = list(train(Digits(), PARAMS, n_epochs=2, seed=3))
    assert [e.step for e in first] == [-1, 0, 1]
    assert [e.value for e in first] == [e.value for e in second]
    assert first[0].spectrum is not None
    assert second[0].spectrum is not None
    assert np.array_equal(first[0].spectrum.exponents, second[0].spectrum.exponents)
    other = list(train(Digits(), PARAMS, n_epochs=2, seed=4))
    assert [e.value for e in other] != [e.value for e in first]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_forget_bias_is_memory(cell: str) -> None:
    short, long = (
        build_network(Recall(), {**PARAMS, "cell": cell, "forget_bias": bias}, 0)
        for bias in (-2.0, 4.0)
    )
    from optuna_aelle import spectral_fingerprint

    probe = Recall().probe_inputs
    slow = spectral_fingerprint(long.rnn, probe).max_exponent
    fast = spectral_fingerprint(short.rnn, probe).max_exponent
    assert fast < -0.3 < -0.1 < slow < 0.1
