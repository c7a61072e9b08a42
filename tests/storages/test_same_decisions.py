"""The storage is the only truth: another process that reads it decides the same."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import uuid
from pathlib import Path

import optuna
import pytest

from optuna_aelle import AeLLEPruner
from tests.conftest import run_synthetic
from tests.storages.again import decided
from tests.storages.stores import opened


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "sqlite",
        "journal-file",
        *(pytest.param(k, marks=pytest.mark.services) for k in ("postgresql", "mariadb", "grpc")),
    ],
)
def test_another_process_decides_the_same(kind: str, tmp_path: Path) -> None:
    name = f"aelle-{uuid.uuid4().hex}"
    with opened(kind, name, tmp_path) as storage:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=optuna.samplers.RandomSampler(seed=0),
            pruner=AeLLEPruner(),
        )
        run_synthetic(study, 45, n_steps=9)
        path = tmp_path / "storage.pickle"
        path.write_bytes(pickle.dumps(storage))
        done = subprocess.run(
            [sys.executable, "-m", "tests.storages.again", str(path), name],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        again = json.loads(done.stdout.splitlines()[-1])
        before = decided(study)
    assert len(before) == len(again) == 45
    assert sum(bool(forecasts) for _, _, forecasts in before) > 10
    assert {by for _, stopped, _ in before if stopped for by in stopped[1:]} == {
        "AeLLE",
        "SuccessiveHalvingPruner",
    }
    for then, now in zip(before, again, strict=True):
        assert then[:2] == now[:2]
        assert then[2].keys() == now[2].keys()
        for step, numbers in then[2].items():
            assert numbers == pytest.approx(now[2][step], rel=1e-6, abs=1e-9)
