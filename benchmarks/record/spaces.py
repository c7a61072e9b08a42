"""What do the recorded tables search? Spaces, and configurations drawn from them.

A *plain* space has one cell, and its learning rate spans two decades. In a *mixed* space the
hyperparameters do not describe the network: cell, depth, gating and the scheme of initialisation
are choices, so one init gain means another thing for each; its learning rate spans one decade.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution

Params = dict[str, Any]

GATED = ("lstm", "gru")
STACKABLE = ("rnn", "lstm", "gru")
MIXED_CELLS = ("rnn", "gru", "lstm", "antisymmetric", "lem")
# Networks of one size are trained side by side, so only some sizes of the range are drawn.
PLAIN_SIZES = (16, 24, 32, 48, 64, 96, 128)
MIXED_SIZES = (16, 32, 64, 128)


def search_space(cell: str) -> dict[str, BaseDistribution]:
    """The distributions of a space, conditional parameters included."""
    mixed = cell == "mixed"
    space: dict[str, BaseDistribution] = {
        "hidden_size": IntDistribution(16, 128, log=True),
        "learning_rate": FloatDistribution(*((1e-3, 1e-2) if mixed else (2e-4, 2e-2)), log=True),
        "init_gain": FloatDistribution(0.1, 4.0, log=True),
        "weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
        "dropout": FloatDistribution(0.0, 0.5),
        "clipping": FloatDistribution(0.05, 10.0, log=True),
        "optimizer": CategoricalDistribution(("adam", "rmsprop", "sgd")),
    }
    if mixed:
        space |= {
            "cell": CategoricalDistribution(MIXED_CELLS),
            "init_scheme": CategoricalDistribution(
                ("uniform", "glorot", "orthogonal", "identity")
            ),
            "n_layers": IntDistribution(1, 2),
            "gating": CategoricalDistribution(("full", "tied")),
            "gate_bias": CategoricalDistribution(("zero", "chrono")),
        }
    elif cell in GATED:
        space["gate_bias_value"] = FloatDistribution(-2.0, 4.0)
    return space


def draw_params(cell: str, seed: int) -> Params:
    """The configuration of a seed, without the parameters of branches that it does not take."""
    rng = np.random.default_rng(seed)
    params = {name: _draw(d, rng) for name, d in search_space(cell).items()}
    sizes = MIXED_SIZES if cell == "mixed" else PLAIN_SIZES
    # Large ones less often: a training costs the square of its size.
    weights = np.array(sizes, dtype=np.float64) ** -0.5
    params["hidden_size"] = int(rng.choice(sizes, p=weights / weights.sum()))
    kind = params.get("cell", cell)
    if kind not in STACKABLE:
        params.pop("n_layers", None)
    if kind not in GATED:
        for name in ("gating", "gate_bias"):
            params.pop(name, None)
    return params


def _draw(distribution: BaseDistribution, rng: np.random.Generator) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(rng.integers(len(distribution.choices)))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if isinstance(distribution, IntDistribution):
        return int(rng.integers(distribution.low, distribution.high + 1))
    if distribution.log:
        value = np.exp(rng.uniform(np.log(distribution.low), np.log(distribution.high)))
    else:
        value = rng.uniform(distribution.low, distribution.high)
    return float(np.clip(float(f"{value:.6g}"), distribution.low, distribution.high))
