"""How early can one tell how a training will end: from its losses, or from its spectrum?

Delayed recall, the random configurations of one seed, all trained in full. Left: the validation
curves, which sit at chance while nothing can be told from them. Right: rank correlation with the
final value, epoch by epoch, of the plain value, and of what the spectrum of the *untrained*
network and the hyperparameters predict, out of sample (fitted on the other configurations).

    python -m benchmarks.explain
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
import optuna
import torch
from optuna.trial import FrozenTrial
from scipy.stats import spearmanr

from benchmarks.environment import RESULTS
from benchmarks.environment import describe_environment
from benchmarks.trainings import Trainings
from optuna_aelle import PerformancePredictor
from optuna_aelle import encode_spectrum
from studies.recall import Recall

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_N_FOLDS = 10


def finished_trials(trainings: Trainings, n_trials: int) -> list[FrozenTrial]:
    """The first configurations of the random stream as trials that were never pruned."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.RandomSampler(seed=trainings.seed)
    study = optuna.create_study(direction=trainings.task.direction, sampler=sampler)
    for _ in range(n_trials):
        trial = study.ask()
        value = float("nan")
        for epoch in trainings.epochs(trainings.task.suggest(trial)):
            if epoch.step == -1 and epoch.exponents is not None:
                for key, payload in encode_spectrum(epoch.exponents, -1).items():
                    trial.set_user_attr(key, payload)
            if epoch.value is not None:
                value = epoch.value
                trial.report(value, epoch.step)
        study.tell(trial, value)
    return study.trials


def out_of_sample(trials: list[FrozenTrial], feature: str) -> float:
    """Rank correlation of predictions before training with final values, cross-validated."""
    order = np.random.default_rng(0).permutation(len(trials))
    predicted = np.zeros(len(trials))
    for fold in np.array_split(order, _N_FOLDS):
        rest = [t for i, t in enumerate(trials) if i not in fold]
        predictor = PerformancePredictor(features=(feature,)).fit(rest)  # type: ignore[arg-type]
        predicted[fold] = predictor.predict([trials[i] for i in fold], -1)[0]
    return float(spearmanr(predicted, [t.value for t in trials]).statistic)


def main() -> None:
    """Measure, write JSON, draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explain", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--cache", type=Path, default=Path("cache/trainings"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    trainings = Trainings(Recall(), options.seed, options.epochs, options.cache)
    trials = finished_trials(trainings, options.trials)
    curves = np.array([[t.intermediate_values[s] for s in range(options.epochs)] for t in trials])
    by_epoch = [
        float(spearmanr(curves[:, s], curves[:, -1]).statistic) for s in range(options.epochs)
    ]
    results = {
        "command": f"python -m benchmarks.explain --seed {options.seed}",
        "environment": describe_environment(),
        "n_trials": len(trials),
        "spearman_of_value_by_epoch": [round(r, 4) for r in by_epoch],
        "spearman_of_untrained_spectrum": round(out_of_sample(trials, "spectrum"), 4),
        "spearman_of_hyperparameters": round(out_of_sample(trials, "params"), 4),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "explain.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(curves, results, options.output / "explain.png")
    print(json.dumps({k: v for k, v in results.items() if k.startswith("spearman")}, indent=1))


def draw(curves: np.ndarray, results: dict[str, object], path: Path) -> None:
    """Curves, and rank correlation by epoch."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.2))
    epochs = np.arange(1, curves.shape[1] + 1)
    shade = plt.get_cmap("viridis_r")
    for curve in curves[np.argsort(-curves[:, -1])]:
        left.plot(epochs, curve, color=shade(1.0 - min(curve[-1], 1.0)), lw=1.0, alpha=0.8)
    left.set(
        xlabel="epoch", ylabel="unexplained variance", title="delayed recall: validation curves"
    )
    left.set_ylim(0.0, 1.3)
    by_epoch = np.asarray(results["spearman_of_value_by_epoch"])
    right.plot(epochs[: len(by_epoch)], by_epoch, color="#1e88e5", lw=2, label="value so far")
    for key, color, label in (
        ("spearman_of_untrained_spectrum", "#d81b60", "spectrum of the untrained network"),
        ("spearman_of_hyperparameters", "#8d6e63", "hyperparameters"),
    ):
        right.axhline(float(str(results[key])), color=color, ls="--", lw=2, label=label)
    right.set(xlabel="epoch", ylabel="Spearman with the final value", ylim=(-0.1, 1.05))
    right.set_title("who can tell the end?")
    right.legend(frameon=False, loc="lower right")
    for axis in (left, right):
        axis.grid(alpha=0.25)
    fig.tight_layout()
    fig.savefig(path, dpi=130)
    plt.close(fig)


if __name__ == "__main__":
    main()
