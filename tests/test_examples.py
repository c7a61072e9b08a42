"""The examples of the docstrings run, and everything public has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from torch import nn

import optuna_aelle
from tests.conftest import run_synthetic

ROOT = Path(optuna_aelle.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    for path in ROOT.rglob("*.py")
    if path.name not in ("__init__.py", "_umap_worker.py")
)


class _Checker(doctest.OutputChecker):
    """An example that says nothing of its output may have any."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


class MyCell(nn.Module):
    """A cell of a user's own."""

    size, n_inputs = 3, 1

    def step(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return torch.tanh(h + x)


class MyPruner(optuna.pruners.BasePruner):
    """A pruner of a user's own."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return False


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What examples take for granted: a study with spectra, one of its trials, a network."""
    study = optuna.create_study(
        study_name="example",
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna_aelle.AeLLEPruner(),
    )
    run_synthetic(study, 20)
    trial = study.ask()
    trial.suggest_float("noise", 0.0, 1.0)
    rnn = nn.GRU(1, 8, batch_first=True)
    return {
        "MedianPruner": optuna.pruners.MedianPruner,
        "MyCell": MyCell,
        "MyPruner": MyPruner,
        "Path": Path,
        "predictor": optuna_aelle.PerformancePredictor().fit(study.trials),
        "recorded": optuna_aelle.RecordedTrials.from_study(study),
        "build": lambda params: rnn,
        "epoch": 0,
        "nn": nn,
        "np": np,
        "optuna": optuna,
        "probe_inputs": torch.randn(2, 40, 1),
        "rnn": rnn,
        "study": study,
        "torch": torch,
        "trial": trial,
        "x": torch.randn(2, 40, 1),
    }


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(
    module: str, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = importlib.import_module(module)
    tests = [t for t in doctest.DocTestFinder(exclude_empty=True).find(loaded) if t.examples]
    if not tests:
        return
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(_Checker(), verbose=False, optionflags=flags)
    public = {name: getattr(optuna_aelle, name) for name in optuna_aelle.__all__}
    with warnings.catch_warnings():
        for test in tests:
            test.globs = {**public, **vars(loaded), **names}
            runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("name", [n for n in optuna_aelle.__all__ if n not in ("cells",)])
def test_every_public_name_has_an_example(name: str) -> None:
    thing = getattr(optuna_aelle, name)
    members = [thing]
    if inspect.ismodule(thing):
        members = [getattr(thing, n) for n in getattr(thing, "__all__", ())]
    for member in members:
        if inspect.isclass(member) or inspect.isfunction(member):
            assert ">>>" in (member.__doc__ or ""), f"{name}: {member.__name__}"
