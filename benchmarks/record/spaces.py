"""What do the recorded tables search? Spaces, and configurations drawn from them.

Where a space has several cells, its hyperparameters do not describe the network: cell, depth,
gating and the scheme of initialisation are choices, so one init gain means another thing for each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution

Params = dict[str, Any]
Range = tuple[float, float]

GATED = ("lstm", "gru", "mingru", "minlstm")
# A coupled LSTM has i = 1 − f, a minimal GRU r = 1 − z; the other gated cells have no such pair.
TIEABLE = ("lstm", "gru")
STACKABLE = ("rnn", "lstm", "gru", "relu", "mingru", "minlstm")
# These have no recurrent matrix to draw.
WITHOUT_MATRIX = ("mingru", "minlstm")
# Networks of one size are trained side by side, so only some sizes of the range are drawn.
PLAIN_SIZES = (16, 24, 32, 48, 64, 96, 128)
MIXED_SIZES = (16, 32, 64, 128)
# What a network is trained with where a space says nothing.
DEFAULTS: Params = {
    "weight_decay": 0.0,
    "dropout": 0.0,
    "clipping": math.inf,
    "optimizer": "adam",
}


@dataclass(frozen=True)
class Space:
    """What a table searches: ranges and choices; what is None or empty is not searched.

    Attributes:
        cells: Of which each configuration has one; a name of `networks.N_GATES`.
        sizes: The hidden sizes that are drawn, in order.
        learning_rate: Range, on a logarithmic scale, as all of the following but dropout.
        init_gain: Of the recurrent weights; of the input weights where a cell has no others.
        weight_decay: Range.
        dropout: Range, on a linear scale.
        clipping: Range of the largest norm of the gradients.
        optimizers: Choices.
        init_schemes: Choices of how the recurrent weights are drawn.
        n_layers: Range, ends included.
        gatings: Choices.
        gate_biases: Choices of how the gate that keeps the old state starts.
        gate_bias_value: Range of the constant that it starts with.
        batch_sizes: The batch sizes that are drawn, in order.
        as_choices: Whether sizes and batch sizes are told as categories, not as whole numbers.
        fixed: Values that every configuration has and that no search names.

    Example:
        >>> sorted(draw_params(Space(("rnn",), optimizers=(), dropout=None), seed=0))
        ['clipping', 'hidden_size', 'init_gain', 'learning_rate', 'weight_decay']
    """

    cells: tuple[str, ...]
    sizes: tuple[int, ...] = PLAIN_SIZES
    learning_rate: Range = (2e-4, 2e-2)
    init_gain: Range | None = (0.1, 4.0)
    weight_decay: Range | None = (1e-6, 1e-1)
    dropout: Range | None = (0.0, 0.5)
    clipping: Range | None = (0.05, 10.0)
    optimizers: tuple[str, ...] = ("adam", "rmsprop", "sgd")
    init_schemes: tuple[str, ...] = ()
    n_layers: tuple[int, int] | None = None
    gatings: tuple[str, ...] = ()
    gate_biases: tuple[str, ...] = ()
    gate_bias_value: Range | None = None
    batch_sizes: tuple[int, ...] = ()
    as_choices: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def complete(self, params: Params) -> Params:
        """All that a training needs to know: what was searched and what was not."""
        return {**DEFAULTS, **self.fixed, **params}


def first_space(cell: str) -> Space:
    """The space of the first tables: one cell over two decades of rates, or mixed over one."""
    if cell == "mixed":
        return Space(
            cells=("rnn", "gru", "lstm", "antisymmetric", "lem"),
            sizes=MIXED_SIZES,
            learning_rate=(1e-3, 1e-2),
            init_schemes=("uniform", "glorot", "orthogonal", "identity"),
            n_layers=(1, 2),
            gatings=("full", "tied"),
            gate_biases=("zero", "chrono"),
        )
    return Space(cells=(cell,), gate_bias_value=(-2.0, 4.0) if cell in GATED else None)


def search_space(space: Space | str) -> dict[str, BaseDistribution]:
    """The distributions of a space, conditional parameters included; a cell's is its first."""
    if isinstance(space, str):
        space = first_space(space)
    ranges = {
        "hidden_size": _whole(space.sizes, space.as_choices),
        "learning_rate": _logarithmic(space.learning_rate),
        "init_gain": _logarithmic(space.init_gain),
        "weight_decay": _logarithmic(space.weight_decay),
        "dropout": FloatDistribution(*space.dropout) if space.dropout else None,
        "clipping": _logarithmic(space.clipping),
        "optimizer": _choice(space.optimizers),
        "cell": _choice(space.cells) if len(space.cells) > 1 else None,
        "init_scheme": _choice(space.init_schemes),
        "n_layers": IntDistribution(*space.n_layers) if space.n_layers else None,
        "gating": _choice(space.gatings),
        "gate_bias": _choice(space.gate_biases),
        "gate_bias_value": (
            FloatDistribution(*space.gate_bias_value) if space.gate_bias_value else None
        ),
        "batch_size": _whole(space.batch_sizes, space.as_choices),
    }
    return {name: distribution for name, distribution in ranges.items() if distribution}


def draw_params(space: Space | str, seed: int) -> Params:
    """The configuration of a seed, without the parameters of branches that it does not take."""
    if isinstance(space, str):
        space = first_space(space)
    rng = np.random.default_rng(seed)
    params = {name: _draw(d, rng) for name, d in search_space(space).items()}
    # Large ones less often: a training costs the square of its size.
    weights = np.array(space.sizes, dtype=np.float64) ** -0.5
    params["hidden_size"] = int(rng.choice(space.sizes, p=weights / weights.sum()))
    if space.batch_sizes:
        params["batch_size"] = int(rng.choice(space.batch_sizes))
    kind = params.get("cell", space.cells[0])
    if kind not in STACKABLE:
        params.pop("n_layers", None)
    if kind not in TIEABLE:
        params.pop("gating", None)
    if kind not in GATED:
        params.pop("gate_bias", None)
        params.pop("gate_bias_value", None)
    if kind in WITHOUT_MATRIX:
        params.pop("init_scheme", None)
    return params


def _logarithmic(limits: Range | None) -> FloatDistribution | None:
    return FloatDistribution(*limits, log=True) if limits else None


def _choice(choices: tuple[str, ...]) -> CategoricalDistribution | None:
    return CategoricalDistribution(choices) if choices else None


def _whole(values: tuple[int, ...], as_choices: bool) -> BaseDistribution | None:
    if not values:
        return None
    if as_choices:
        return CategoricalDistribution(values)
    return IntDistribution(values[0], values[-1], log=True)


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
