"""What is compared: the arms of `benchmarks.decisions.pruning`, by the names in its results.

- Optuna's pruners and ours come from `optuna_aelle.backtest.arms`, as everywhere.
- A peer that decides while trials run is one more entry in `peer_arms`.
- One that stops trials and takes some up again is one more in `resuming_arms`.
- A variant of ours is one more in `ablations`; one with a sampler, in `sampler_arms`.
"""

from __future__ import annotations

from functools import partial

from optuna.pruners import SuccessiveHalvingPruner

from benchmarks.decisions.peers import CurveRegressionPruner
from benchmarks.decisions.peers import LossSumHalvingPruner
from benchmarks.decisions.peers import LossSumPruner
from benchmarks.decisions.peers import TopK
from benchmarks.decisions.regressors import LinearRegressor
from optuna_aelle import AeLLEPruner
from optuna_aelle.backtest.arms import OURS
from optuna_aelle.backtest.arms import Steps
from optuna_aelle.backtest.arms import pruner_arms
from optuna_aelle.backtest.replay import PrunerFactory

SHUFFLED = "AeLLE, shuffled spectra"


def all_arms(steps: Steps) -> dict[str, PrunerFactory]:
    """Every arm that `replay` can run, for trials that count as ``steps`` says."""
    return pruner_arms(steps) | peer_arms() | ablations()


def peer_arms() -> dict[str, PrunerFactory]:
    """Peers that Optuna does not ship (`benchmarks.decisions.peers`)."""
    arms: dict[str, PrunerFactory] = {
        f"loss sum {percentile}": partial(LossSumPruner, float(percentile))
        for percentile in (25, 50)
    }
    for eta in (2, 4):
        arms[f"loss sum, SHA η={eta}"] = partial(LossSumHalvingPruner, eta)
    for risk in (0.05, 0.2):
        for warmup in (0, 2):
            arms[f"regression {risk:g}, warm-up {warmup}"] = partial(
                CurveRegressionPruner, risk, n_warmup_steps=warmup
            )
    return arms


def resuming_arms() -> dict[str, TopK]:
    """Peers that stop everybody and take a few up again, which needs checkpoints."""
    return {f"top {k} after {i}": TopK(i, k) for i in (1, 2, 3, 5, 10) for k in (1, 3, 5)}


def ablations() -> dict[str, PrunerFactory]:
    """Our pruner without some of its parts; the shuffled spectra are those of other trials."""
    return {
        "AeLLE over SHA η=4": partial(
            AeLLEPruner, SuccessiveHalvingPruner(min_resource=1, reduction_factor=4)
        ),
        "AeLLE, params": partial(AeLLEPruner, features=("params",)),
        "AeLLE, curve": partial(AeLLEPruner, features=("curve",)),
        "AeLLE, curve + params": partial(AeLLEPruner, features=("curve", "params")),
        "AeLLE, spectrum": partial(AeLLEPruner, features=("spectrum",)),
        "AeLLE, PCA": partial(AeLLEPruner, spectrum_regressor=partial(LinearRegressor, 8)),
        "AeLLE, raw spectrum": partial(
            AeLLEPruner, spectrum_regressor=partial(LinearRegressor, None)
        ),
        SHUFFLED: AeLLEPruner,
    }


def sampler_arms() -> dict[str, PrunerFactory]:
    """Pruners under `benchmarks.decisions.samplers.aelle_sampler`."""
    arms = pruner_arms(Steps())
    return {f"AeLLE sampler + {name}": arms[name] for name in ("SHA η=2, min 1", OURS)}
