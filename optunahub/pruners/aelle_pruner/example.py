"""Stop GRUs that will not learn to continue a sum of sines; a few seconds on one core."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna_aelle import report_network
import optunahub
import torch
from torch import nn


# From a checkout; `optunahub.load_module("pruners/aelle_pruner")` fetches it instead.
module = optunahub.load_local_module(
    package="pruners/aelle_pruner", registry_root=str(Path(__file__).parents[2])
)

time = torch.arange(400) / 10.0
signal = torch.sin(time) + 0.5 * torch.sin(2.7 * time)
inputs, targets = signal[:-1].reshape(3, 133, 1), signal[1:].reshape(3, 133, 1)
probe_inputs = inputs[:2, :32]


def objective(trial: optuna.Trial) -> float:
    torch.manual_seed(0)
    rnn = nn.GRU(1, trial.suggest_int("hidden_size", 4, 32), batch_first=True)
    readout = nn.Linear(rnn.hidden_size, 1)
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    optimizer = torch.optim.Adam([*rnn.parameters(), *readout.parameters()], lr=rate)
    report_network(trial, rnn, probe_inputs, step=-1)
    for epoch in range(10):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(readout(rnn(inputs)[0]), targets)
        loss.backward()
        optimizer.step()
        trial.report(loss.item(), epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return loss.item()


study = optuna.create_study(
    sampler=optuna.samplers.RandomSampler(seed=0), pruner=module.AeLLEPruner()
)
study.optimize(objective, n_trials=20)
for trial in study.trials:
    print(trial.number, trial.state.name, trial.user_attrs.get("aelle:decision", ""))
