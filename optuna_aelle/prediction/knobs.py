"""Hyperparameters under their common names and in natural units: what carries over by name.

A *knob* is a hyperparameter that means the same in every study: a learning rate of .001 is one,
whatever the study calls it and whatever range it searches. Everything else speaks within its own
study alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial

FloatArray = npt.NDArray[np.float64]

# Knobs that are numbers, and whether ratios or differences of them matter.
NUMBERS: dict[str, bool] = {
    "learning_rate": True,
    "hidden_size": True,
    "init_gain": True,
    "weight_decay": True,
    "dropout": False,
    "clipping": True,
    "batch_size": True,
    "n_layers": False,
    "gate_bias_value": False,
}
CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": ("adam", "rmsprop", "sgd"),
    "cell": (
        "rnn",
        "gru",
        "lstm",
        "antisymmetric",
        "lem",
        "relu",
        "mingru",
        "minlstm",
        "cornn",
        "lipschitz",
    ),
    "init_scheme": ("uniform", "glorot", "orthogonal", "identity"),
    "gating": ("full", "tied"),
    "gate_bias": ("zero", "chrono"),
}
# What people call them, in lower case and without what separates words.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr", "eta", "eta0", "learnrate", "baselr", "initlr", "stepsize"),
    "hidden_size": (
        "hidden",
        "hiddendim",
        "hiddenunits",
        "nhidden",
        "nunits",
        "numunits",
        "numhidden",
        "units",
        "rnnsize",
        "statesize",
        "width",
    ),
    "init_gain": ("gain", "g", "initscale", "initrange"),
    "weight_decay": ("wd", "l2", "decay", "weightdecayrate"),
    "dropout": ("dropoutrate", "pdropout", "dropoutp", "drop"),
    "clipping": (
        "clip",
        "gradclip",
        "gradientclip",
        "gradientclipval",
        "gradclipval",
        "clipnorm",
        "maxnorm",
        "maxgradnorm",
    ),
    "batch_size": ("batch", "bs"),
    "n_layers": ("layers", "numlayers", "depth"),
    "gate_bias_value": ("forgetbias", "forgetgatebias"),
    "optimizer": ("optim", "optimiser"),
    "cell": ("celltype", "rnntype", "rnncell", "rnn", "architecture"),
    "init_scheme": ("init", "initializer", "initialisation", "initialization"),
}
_CHOICE_SYNONYMS = {
    "adamw": "adam",
    "nadam": "adam",
    "vanilla": "rnn",
    "tanh": "rnn",
    "elman": "rnn",
    "irnn": "relu",
    "rnnrelu": "relu",
    "xavier": "glorot",
    "xavieruniform": "glorot",
    "antisymmetricrnn": "antisymmetric",
    "lipschitzrnn": "lipschitz",
}
KNOBS = (*NUMBERS, *CHOICES)
_KNOB_OF = {
    re.sub(r"[^a-z0-9]", "", spoken): knob
    for knob in KNOBS
    for spoken in (knob, *_SYNONYMS.get(knob, ()))
}
# A choice that is no number has no logarithm; 0 counts as next to nothing.
_LEAST = 1e-8


def knob_of(name: str, knobs: Mapping[str, str] | None = None) -> str | None:
    """The knob that a parameter is, by its name; None for one that nobody else knows.

    Args:
        name: As the study calls it. Of ``"model.lr"`` or ``"adam/lr"`` the last part counts, where
            the whole is not known.
        knobs: A person's own names, each to one of `KNOBS`.

    Raises:
        ValueError: ``knobs`` maps a name to something that is no knob.

    Example:
        >>> knob_of("lr"), knob_of("model.hiddenSize"), knob_of("temperature")
        ('learning_rate', 'hidden_size', None)
    """
    own = check_knobs(knobs).get(name)
    if own is not None:
        return own
    for spoken in (name, re.split(r"[./:]", name)[-1]):
        found = _KNOB_OF.get(re.sub(r"[^a-z0-9]", "", spoken.lower()))
        if found is not None:
            return found
    return None


def check_knobs(knobs: Mapping[str, str] | None) -> Mapping[str, str]:
    """The mapping itself, or an error that lists what there is."""
    for name, knob in (knobs or {}).items():
        if knob not in KNOBS:
            raise ValueError(
                f"Expected knobs to map {name!r} to one of {', '.join(KNOBS)}, but got {knob!r}."
            )
    return knobs or {}


def knob_columns(
    trials: Sequence[FrozenTrial], knobs: Mapping[str, str] | None = None
) -> FloatArray:
    """Every knob as numbers, ``(n, N_KNOB_COLUMNS)``: numbers first, then choices one-hot.

    NaN where a trial does not have a knob, or not in a form that can be read.
    """
    known: dict[str, str | None] = {}
    rows = np.full((len(trials), N_KNOB_COLUMNS), math.nan)
    for row, trial in zip(rows, trials, strict=True):
        for name, value in trial.params.items():
            if name not in known:
                known[name] = knob_of(name, knobs)
            knob = known[name]
            if knob is not None:
                first = _FIRST_COLUMN[knob]
                read = _number(knob, value) if knob in NUMBERS else _one_hot(knob, value)
                row[first : first + len(read)] = read
    return rows


def _number(knob: str, value: Any) -> list[float]:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return [math.nan]
    if not math.isfinite(number) or isinstance(value, bool):
        return [math.nan]
    if not NUMBERS[knob]:
        return [number]
    return [math.log(max(number, _LEAST)) if number >= 0.0 else math.nan]


def _one_hot(knob: str, value: Any) -> list[float]:
    spoken = re.sub(r"[^a-z0-9]", "", str(value).lower())
    spoken = _CHOICE_SYNONYMS.get(spoken, spoken)
    # A choice that is not known is none of those that are.
    return [float(spoken == choice) for choice in CHOICES[knob]]


_FIRST_COLUMN: dict[str, int] = {}
N_KNOB_COLUMNS = 0
for _knob in KNOBS:
    _FIRST_COLUMN[_knob] = N_KNOB_COLUMNS
    N_KNOB_COLUMNS += 1 if _knob in NUMBERS else len(CHOICES[_knob])
