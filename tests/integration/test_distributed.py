"""Two processes train one network: the first decides, both stop, and both go on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tests.conftest import skip_unless_required

try:
    import lightning  # noqa: F401
except ImportError:
    skip_unless_required("lightning is not installed")

import optuna_aelle as aelle
from tests.integration.lightning_modules import Module
from tests.integration.lightning_modules import make_trainer
from tests.integration.searches import N_EPOCHS
from tests.integration.searches import stopping_study

SCRIPT = ["-m", "tests.integration.distributed"]
LAUNCHED = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["spawn", "fork", "launched"])
def test_two_processes_report_stop_and_go_on_as_one(how: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    command = [*(LAUNCHED if how == "launched" else []), *SCRIPT, how, url, str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command], capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-4000:]
    trials = optuna.load_study(study_name="two", storage=url).trials
    states = [TrialState.PRUNED, TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]
    whole = list(range(N_EPOCHS))
    reported = [[0, 1], whole, [], whole]
    trained = [[0, 1], [2, 3], [], whole]
    n = 2 if how == "spawn" else 4
    assert [t.state for t in trials] == states[:n]
    assert [list(t.intermediate_values) for t in trials] == reported[:n]
    assert list(aelle.decode_spectra(trials[1])) == [-1, *whole]
    assert trials[1].value == pytest.approx(trials[1].intermediate_values[N_EPOCHS - 1])
    for rank in range(2):
        assert [_epochs(tmp_path, number, rank) for number in range(n)] == trained[:n]
    # Both had the same weights in every epoch.
    for path in tmp_path.glob("*-0-*"):
        other = tmp_path / path.name.replace("-0-", "-1-", 1)
        assert json.loads(path.read_text()) == json.loads(other.read_text())


def _epochs(folder: Path, number: int, rank: int) -> list[int]:
    return sorted(int(p.name.rsplit("-", 1)[1]) for p in folder.glob(f"{number}-{rank}-*"))


@pytest.mark.slow
def test_a_search_in_each_process_is_refused(tmp_path: Path) -> None:
    """As where ``strategy="ddp"`` runs a script once more for each device."""
    script = tmp_path / "script.py"
    script.write_text(SEARCHES_TWICE)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), f"sqlite:///{tmp_path / 'study.db'}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "the trial of the first process, and the same one or None" in done.stderr


SEARCHES_TWICE = """
import sys

import optuna

import optuna_aelle as aelle
from tests.integration.lightning_modules import Module, make_trainer

def objective(trial):
    callback = aelle.integration.LightningCallback(trial, "val_loss")
    make_trainer(callback, strategy="ddp", devices=2).fit(Module())

study = optuna.create_study(study_name="s", storage=sys.argv[1], load_if_exists=True)
study.optimize(objective, n_trials=1)
"""


def test_trials_in_memory_cannot_be_sent(tmp_path: Path) -> None:
    callback = aelle.integration.LightningCallback(stopping_study().ask(), "val_loss")
    trainer = make_trainer(callback, strategy="ddp_spawn", devices=2)
    with pytest.raises(ValueError, match="kept in memory"):
        trainer.fit(Module())
