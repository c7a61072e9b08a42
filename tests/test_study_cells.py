"""Studies over any of the named recurrences: their space, their networks, whole searches."""

from __future__ import annotations

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution

from optuna_aelle import Checkpoints
from optuna_aelle import decode_spectra
from optuna_aelle import report_spectrum
from optuna_aelle.trials.continuation import origin_of
from studies.arguments import cells
from studies.cells import CELLS
from studies.cells import DEFAULT_CELLS
from studies.digits import Digits
from studies.recall import Recall
from studies.search import main
from studies.training import Training
from studies.training import build_network
from studies.training import train
from studies.training import untrained_spectrum

PARAMS = {
    "hidden_size": 20,
    "init_gain": 1.0,
    "learning_rate": 5e-3,
    "weight_decay": 1e-4,
    "clipping": 1.0,
    "forget_bias": 1.0,
}


def params_of(cell: str, **changed: Any) -> dict[str, Any]:
    return Recall().reduce({"cell": cell, **PARAMS, **changed})


@pytest.fixture(autouse=True)
def _one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_names_are_read_in_any_order_and_by_synonyms() -> None:
    assert cells("gru,lstm, RNN") == DEFAULT_CELLS
    assert cells("s6,mingru,ssm") == ("mingru", "ssm")
    assert cells(",".join(CELLS)) == tuple(CELLS)


def test_studies_that_are_there_are_searched_as_before() -> None:
    space = Digits().space()
    assert list(space) == [
        "cell",
        "hidden_size",
        "init_gain",
        "learning_rate",
        "weight_decay",
        "clipping",
        "forget_bias",
    ]
    cell = space["cell"]
    assert isinstance(cell, CategoricalDistribution)
    assert cell.choices == ("rnn", "lstm", "gru")
    names = list(build_network(Digits(), params_of("gru"), 0).state_dict())
    assert names == [
        *(f"rnn.{kind}_{of}_l0" for kind in ("weight", "bias") for of in ("ih", "hh")),
        "readout.weight",
        "readout.bias",
    ]


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_is_given_the_parameters_that_it_is_built_with(cell: str) -> None:
    task = Digits().over([cell])
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    params = task.suggest(trial)
    assert params == trial.params
    assert trial.distributions == task.space()
    # A sampler may draw the parameters of all branches at once.
    assert Digits().over(list(CELLS)).reduce({**PARAMS, **params}) == params
    assert Digits().over(list(CELLS)).space().keys() >= params.keys()
    assert ("init_gain" in params) == bool(CELLS[cell].gained)
    for name in CELLS[cell].gained:
        # And they do what they are for.
        low, high = (
            build_network(task, {**params, "init_gain": gain}, 0).rnn.get_parameter(name)
            for gain in (0.1, 3.0)
        )
        assert 15.0 < (high.std() / low.std()).item() < 60.0


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_trains_has_fingerprints_and_goes_on(cell: str, tmp_path: Path) -> None:
    task, params = Recall(), params_of(cell)
    first, after, then = train(task, params, n_epochs=2, seed=0)
    assert first.spectrum is not None
    assert after.value is not None
    assert math.isfinite(after.value)
    assert after.value < 2.0
    again = untrained_spectrum(task, params, 0)
    assert np.array_equal(again.exponents, first.spectrum.exponents)

    study = optuna.create_study()
    trial = study.ask()
    report_spectrum(trial, first.spectrum, -1)
    kept = decode_spectra(study.trials[0])[-1]
    # Units that modReLU silences have forgotten everything: −inf.
    assert np.isfinite(kept[kept > -math.inf] if cell == "exponential" else kept).all()
    # Saved after an epoch, it is trained on as if it had never stopped.
    store = Checkpoints(tmp_path / "saved")
    stopped, other = (Training(task, params, seed=0) for _ in range(2))
    for step in store.epochs(trial, 1, **stopped.states):
        stopped.epoch(step)
    assert store.restore(study.trials[0], **other.states) == 0
    assert other.epoch(1).value == then.value


def test_networks_are_the_same_whoever_builds_others_beside() -> None:
    names = [name for name, cell in CELLS.items() if cell.own_start]
    state = torch.get_rng_state()
    alone = [copy.deepcopy(build_network(Recall(), params_of(c), 0).state_dict()) for c in names]
    assert torch.equal(torch.get_rng_state(), state)
    with ThreadPoolExecutor(4) as pool:
        together = list(
            pool.map(lambda c: build_network(Recall(), params_of(c), 0).state_dict(), names * 8)
        )
    for expected, found in zip(alone * 8, together, strict=True):
        assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("cell", [name for name, cell in CELLS.items() if cell.forget is not None])
def test_forget_bias_is_memory(cell: str) -> None:
    slow, fast = (
        untrained_spectrum(Recall(), params_of(cell, init_gain=0.1, forget_bias=bias), 0)
        for bias in (4.0, -2.0)
    )
    assert fast.max_exponent < -0.3 < -0.1 < slow.max_exponent < 0.1


def test_a_search_over_old_and_new_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    name = "recall-rnn-lstm-gru-mingru-ssm"
    # The sampler may find no reason to try them.
    begun = optuna.create_study(study_name=name, storage=url, direction="minimize")
    for cell in ("mingru", "ssm"):
        begun.enqueue_trial({"cell": cell})
    options = ["--storage", url, "--epochs", "5", "--trials", "8"]
    main(Recall(), [*options, "--cells", "rnn,gru,lstm,mingru,ssm"])
    main(Recall(), [*options[:-1], "16", "--cells", "s6,lstm,mingru,gru,rnn"])
    assert f"Resuming '{name}': 8 of 16 trials are done." in capsys.readouterr().out
    study = optuna.load_study(study_name=name, storage=url)
    # What waits to go on is not among the 16.
    ended = [t for t in study.trials if t.state.is_finished()]
    assert len(ended) == 16
    for trial in ended:
        spectra = decode_spectra(trial)
        assert -1 in spectra
        assert all(np.isfinite(exponents).all() for exponents in spectra.values())
        assert np.isfinite(list(trial.intermediate_values.values())).all()
        assert Recall().reduce(trial.params) == trial.params
    assert {"mingru", "ssm"} < {trial.params["cell"] for trial in ended}
    resumed = [t for t in ended if origin_of(t) is not None]
    assert resumed
    further = max(resumed, key=lambda t: len(t.intermediate_values))
    curve = list(further.intermediate_values.values())
    straight = list(train(Recall(), further.params, n_epochs=len(curve), seed=0))
    assert [e.value for e in straight[1:]] == curve

    with pytest.raises(SystemExit) as left:
        main(Recall(), [*options, "--cells", "rnn,ssm", "--study-name", name])
    assert left.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"expected those of the study '{name}', which is there already, got rnn,ssm" in said
    assert "Resume it with --cells rnn,lstm,gru,mingru,ssm, or begin another one" in said
    assert len([t for t in study.trials if t.state.is_finished()]) == 16
    # The study of the default cells is another one.
    main(Recall(), ["--storage", url, "--epochs", "1", "--trials", "1", "--no-plots"])
    assert optuna.load_study(study_name="recall", storage=url).trials
    with pytest.raises(SystemExit):
        main(Recall(), ["--storage", url, "--cells", "lru", "--study-name", "recall"])


@pytest.mark.slow
def test_a_search_over_cells_that_are_all_new(tmp_path: Path) -> None:
    """None of which has all the parameters, and most of which no prior knows."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    names = "lru,s5,ssm,mlstm,rwkv4,rwkv6,slstm,exponential"
    main(Digits(), ["--storage", url, "--epochs", "5", "--trials", "16", "--cells", names])
    (study,) = optuna.get_all_study_summaries(url)
    trials = optuna.load_study(study_name=study.study_name, storage=url).trials
    ended = [t for t in trials if t.state.is_finished()]
    assert len(ended) == 16
    assert all(-1 in decode_spectra(trial) for trial in ended)
    assert any(origin_of(trial) is not None for trial in ended)
