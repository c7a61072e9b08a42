"""What a subprocess trains for `test_attach`: python asked.py STORAGE STUDY NUMBER.

It ends with code 3 where the trial is to stop.
"""

from __future__ import annotations

import sys

import optuna
import torch

import optuna_aelle as aelle
from tests.integration.searches import N_EPOCHS
from tests.integration.searches import PROBE
from tests.integration.searches import Reader
from tests.integration.searches import sums

STOPPED = 3


def main(storage: str, study_name: str, number: int) -> None:
    study = optuna.load_study(
        study_name=study_name,
        storage=storage,
        pruner=aelle.AeLLEPruner(optuna.pruners.MedianPruner(n_startup_trials=3)),
    )
    trial = aelle.integration.attach(study, number)
    torch.manual_seed(0)
    model = Reader(trial.suggest_int("hidden_size", 2, 64))
    optimizer = torch.optim.Adam(model.parameters(), trial.params["learning_rate"])
    x, y = sums(32)
    aelle.report_network(trial, model, PROBE, step=-1)
    for epoch in range(N_EPOCHS):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        aelle.report_network(trial, model, PROBE, step=epoch)
        trial.report(loss.item(), epoch)
        if trial.should_prune():
            sys.exit(STOPPED)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
