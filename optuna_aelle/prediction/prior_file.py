"""A `Prior` as one ``.npz`` file, without pickles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from optuna_aelle._files import Arrays
from optuna_aelle._files import check_arrays
from optuna_aelle._files import damage_told
from optuna_aelle._files import read_arrays
from optuna_aelle._files import write_arrays
from optuna_aelle.prediction.network import StandingNetwork
from optuna_aelle.prediction.past import MOST_PAST
from optuna_aelle.prediction.past import PastStudies
from optuna_aelle.prediction.prior import Prior
from optuna_aelle.prediction.traits import N_COLUMNS
from optuna_aelle.trials.payloads import whole

KIND = "optuna-aelle prior"
FORMAT_VERSION = 2

_PAST = ("spectra", "residuals", "doubts")
_SCALES = ("center", "scale", "optional", "reach", "stretch")


def write_prior(prior: Prior, path: str | os.PathLike[str]) -> None:
    """Write one file, at once or not at all: whoever reads it meanwhile has the old one."""
    arrays: dict[str, Any] = {}
    metadata: dict[str, Any] = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "tasks": sorted(prior.tasks),
    }
    if prior.network is not None:
        metadata["n_columns"] = N_COLUMNS
        arrays |= {f"network.{name}": getattr(prior.network, name) for name in _SCALES}
        arrays |= {
            f"weights.{name}": value.astype(np.float32)
            for name, value in prior.network.weights.items()
        }
    if prior.past is not None:
        metadata["past"] = prior.past.metadata()
        arrays |= {f"past.{name}": getattr(prior.past, name) for name in _PAST}
    write_arrays(path, metadata, arrays)


def read_prior(path: Any) -> Prior:
    """Read what `write_prior` wrote.

    Raises:
        ValueError: The file is damaged, of another kind, or of a newer format than this version
            knows.
    """
    with damage_told(path, "Prior.save"):
        arrays, metadata = read_arrays(path)
        if metadata["kind"] != KIND:
            raise ValueError("it is something else")
        version = whole(metadata, "format_version", least=1)
        n_columns = metadata.get("n_columns", N_COLUMNS)
        known = version == FORMAT_VERSION and n_columns == N_COLUMNS
        prior = _prior(arrays, metadata) if known else None
    if prior is None:
        raise ValueError(
            f"Expected a prior of format version {FORMAT_VERSION} that reads {N_COLUMNS} columns, "
            f"but {str(path)!r} has version {version} and reads {n_columns}. "
            "Update optuna-aelle, or learn it again with this version."
        )
    return prior


def _prior(arrays: Arrays, metadata: Mapping[str, Any]) -> Prior:
    for name, array in arrays.items():
        if array.dtype.kind not in "bf" or np.isinf(array).any():
            raise ValueError(f"{name!r} holds more than finite numbers")
        if not name.startswith("past.spectra") and np.isnan(array).any():
            raise ValueError(f"{name!r} holds NaN")
    network = past = None
    if "network.center" in arrays:
        scales = {name: arrays[f"network.{name}"] for name in _SCALES}
        weights = {
            name.removeprefix("weights."): value.astype(np.float32)
            for name, value in arrays.items()
            if name.startswith("weights.")
        }
        network = StandingNetwork(weights, **scales)
        # Whatever is missing or of another shape is missed now, and not in a study.
        if not np.isfinite(network.outlook(np.zeros((1, N_COLUMNS))).mean).all():
            raise ValueError("its network answers NaN")
    if "past" in metadata:
        past = _past(arrays, metadata["past"])
    tasks = metadata["tasks"]
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise ValueError("its 'tasks' is no list of names")
    return Prior(network, past, tasks)


def _past(arrays: Arrays, own: Mapping[str, Any]) -> PastStudies:
    n = len(own["rows"])
    for row in own["rows"]:
        if not all(isinstance(value, str | int | float | bool | None) for value in row.values()):
            raise ValueError("its 'past' has parameters that are neither numbers nor choices")
    # As many as learning keeps: what is asked of them takes the square of that.
    if not 0 < n <= MOST_PAST or not all(isinstance(name, str) for name in own["logarithmic"]):
        raise ValueError("its 'past' is none")
    check_arrays(
        arrays,
        {
            "past.spectra": ("f", (n, None)),
            "past.residuals": ("f", (n,)),
            "past.doubts": ("f", (n,)),
        },
    )
    if (arrays["past.doubts"] < 0.0).any():
        raise ValueError("its 'past.doubts' holds variances below 0")
    spectra, residuals, doubts = (arrays[f"past.{name}"] for name in _PAST)
    n_studies = whole(own, "n_studies", least=1)
    return PastStudies(own["rows"], own["logarithmic"], spectra, residuals, doubts, n_studies)
