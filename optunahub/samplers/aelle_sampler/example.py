"""Search a GRU that continues a sum of sines; a few seconds on one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna_aelle import report_network
from optuna_aelle import spectral_fingerprint
import optunahub
import torch
from torch import nn


# From a checkout; `optunahub.load_module("samplers/aelle_sampler")` fetches it instead.
module = optunahub.load_local_module(
    package="samplers/aelle_sampler", registry_root=str(Path(__file__).parents[2])
)

time = torch.arange(400) / 10.0
signal = torch.sin(time) + 0.5 * torch.sin(2.7 * time)
inputs, targets = signal[:-1].reshape(3, 133, 1), signal[1:].reshape(3, 133, 1)
probe_inputs = inputs[:2, :32]


class Network(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(1, hidden_size, batch_first=True)
        self.readout = nn.Linear(hidden_size, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.readout(self.rnn(x)[0])


def build(params: dict[str, Any]) -> Network:
    torch.manual_seed(0)
    return Network(params["hidden_size"])


def objective(trial: optuna.Trial) -> float:
    network = build({"hidden_size": trial.suggest_int("hidden_size", 4, 32)})
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    # What the sampler has seen of a candidate, it is shown of the trial, too.
    report_network(trial, network.rnn, probe_inputs, step=-1)
    for epoch in range(10):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(network(inputs), targets)
        loss.backward()
        optimizer.step()
        trial.report(loss.item(), epoch)
    return loss.item()


sampler = module.AeLLESampler(
    lambda params: spectral_fingerprint(build(params).rnn, probe_inputs), n_candidates=32, seed=0
)
study = optuna.create_study(sampler=sampler)
study.optimize(objective, n_trials=12)
print(study.best_value, study.best_params)
