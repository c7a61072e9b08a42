"""One worker of a search that many workers share. Replace the network, the data and the space.

All that workers share is a database and a folder, both from the environment:

    AELLE_STORAGE       postgresql+psycopg://user:password@host/search
    AELLE_CHECKPOINTS   a folder that all workers reach
    AELLE_WORKER        the worker's own number: its seed, and worker 0 draws the dashboard's plots
    AELLE_TRIALS        how many trials all workers together shall end

Started again after a crash it goes on; started after the end it stops at once.
"""

import os

import optuna
import torch
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

import optuna_aelle as aelle

STORAGE = os.environ["AELLE_STORAGE"]
CHECKPOINTS = os.environ.get("AELLE_CHECKPOINTS", "checkpoints")
WORKER = int(os.environ.get("AELLE_WORKER", "0"))
N_TRIALS = int(os.environ.get("AELLE_TRIALS", "100"))
N_EPOCHS = 20
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

generator = torch.Generator().manual_seed(0)
inputs = torch.randn(512, 20, 1, generator=generator)
targets = inputs[:, 0]

checkpoints = aelle.Checkpoints(CHECKPOINTS)


def objective(trial):
    size = trial.suggest_int("hidden_size", 8, 48)
    learning_rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    rnn, head = torch.nn.GRU(1, size, batch_first=True), torch.nn.Linear(size, 1)
    optimizer = torch.optim.Adam([*rnn.parameters(), *head.parameters()], learning_rate)
    aelle.report_network(trial, rnn, inputs[:2], step=-1)
    for epoch in checkpoints.epochs(trial, N_EPOCHS, rnn=rnn, head=head, optimizer=optimizer):
        for x, y in zip(inputs.split(32), targets.split(32), strict=True):
            loss = torch.nn.functional.mse_loss(head(rnn(x)[0][:, -1]), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        trial.report(loss.item(), epoch)
        if trial.should_prune():
            raise optuna.TrialPruned()
    return loss.item()


def retries():
    """A trial whose worker is gone is tried again; the option was renamed in Optuna 4.9."""
    if hasattr(optuna.storages, "RetryHeartbeatStaleTrialCallback"):
        again = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=2)
        return {"heartbeat_stale_trial_callback": again}
    return {"failed_trial_callback": optuna.storages.RetryFailedTrialCallback(max_retry=2)}


def main():
    torch.set_num_threads(1)  # a worker a core
    storage = aelle.PatientStorage(
        STORAGE, patience=600.0, heartbeat_interval=60, grace_period=900, **retries()
    )
    study = optuna.create_study(
        study_name="search",
        storage=storage,
        load_if_exists=True,
        sampler=aelle.AeLLESampler(seed=WORKER),
        pruner=aelle.AeLLEPruner(),
    )
    if len(study.get_trials(deepcopy=False, states=ENDED)) >= N_TRIALS:
        return
    callbacks = [MaxTrialsCallback(N_TRIALS, states=ENDED), checkpoints.resume_promising]
    if WORKER == 0:
        callbacks.append(aelle.DashboardCallback())
    study.optimize(objective, callbacks=callbacks)


if __name__ == "__main__":
    main()
