"""A table of recorded trials as one ``.npz`` file, without pickles.

Notation: n trials, E steps that any of them reported, S steps that any of them has a spectrum for,
k = `FINGERPRINT_LENGTH` exponents (nats per step).
"""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import distribution_to_json
from optuna.distributions import json_to_distribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle._files import Arrays
from optuna_aelle._files import check_arrays
from optuna_aelle._files import damage_told
from optuna_aelle._files import read_arrays
from optuna_aelle._files import write_arrays
from optuna_aelle._warnings import warn_once
from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.attributes import encode_fingerprint
from optuna_aelle.trials.attributes import spectrum_payloads
from optuna_aelle.trials.payloads import text
from optuna_aelle.trials.payloads import whole
from optuna_aelle.trials.table import RecordedTrials
from optuna_aelle.trials.table import end_of
from optuna_aelle.trials.table import frozen_trial

# Version 1 held leading exponents of large networks and whole spectra of small ones.
FORMAT_VERSION = 2


def write_table(recorded: RecordedTrials, path: str | os.PathLike[str]) -> None:
    """Write one ``.npz`` file, at once or not at all."""
    names = sorted({name for trial in recorded.trials for name in trial.distributions})
    variants: dict[str, list[BaseDistribution]] = {name: [] for name in names}
    params = np.full((len(recorded), len(names)), np.nan)
    kinds = np.full((len(recorded), len(names)), -1, dtype=np.int16)
    for row, trial in enumerate(recorded.trials):
        for column, name in enumerate(names):
            if name not in trial.params:
                continue
            distribution = trial.distributions[name]
            if distribution not in variants[name]:
                variants[name].append(distribution)
            kinds[row, column] = variants[name].index(distribution)
            params[row, column] = distribution.to_internal_repr(trial.params[name])
    steps = recorded.steps
    reported = np.array([[s in t.intermediate_values for s in steps] for t in recorded.trials])
    values = np.array(
        [[t.intermediate_values.get(s, math.nan) for s in steps] for t in recorded.trials]
    )
    decoded = [decode_spectra(trial) for trial in recorded.trials]
    spectrum_steps = sorted({step for spectra in decoded for step in spectra})
    columns = {step: column for column, step in enumerate(spectrum_steps)}
    spectra = np.full((len(recorded), len(spectrum_steps), FINGERPRINT_LENGTH), np.nan)
    costs = np.full(spectra.shape[:2], np.nan)
    state_sizes = np.zeros(spectra.shape[:2], dtype=np.int32)
    for row, trial in enumerate(recorded.trials):
        for step, payload in spectrum_payloads(trial).items():
            at = row, columns[step]
            spectra[at] = decoded[row][step]
            costs[at] = payload.get("seconds", math.nan)
            state_sizes[at] = payload["n"]
    metadata = {
        "format_version": FORMAT_VERSION,
        "name": recorded.name,
        "direction": recorded.direction,
        "params": {n: [distribution_to_json(d) for d in variants[n]] for n in names},
        "metadata": recorded.metadata,
    }
    arrays = {
        "numbers": np.array([t.number for t in recorded.trials]),
        "finished": np.array([t.state == TrialState.COMPLETE for t in recorded.trials]),
        "ends": np.array([end_of(t) for t in recorded.trials]),
        "times": np.array(
            [
                [_timestamp(moment) for moment in (t.datetime_start, t.datetime_complete)]
                for t in recorded.trials
            ]
        ),
        "params": params,
        "param_kinds": kinds,
        "steps": np.array(steps),
        "values": values,
        "reported": reported,
        "step_seconds": recorded.step_seconds,
        "spectrum_steps": np.array(spectrum_steps, dtype=np.int64),
        # The schema keeps five digits of an exponent and six of a second, as these do.
        "spectra": spectra.astype(np.float32),
        "spectrum_seconds": costs.astype(np.float32),
        "state_sizes": state_sizes,
    } | {f"curve:{name}": curve for name, curve in recorded.curves.items()}
    write_arrays(path, metadata, {name: _narrowed(array) for name, array in arrays.items()})


def read_table(path: str | os.PathLike[str]) -> RecordedTrials:
    """Read what `write_table` wrote.

    Raises:
        ValueError: The file is of another kind, or of a newer format than this version knows.
    """
    with damage_told(path, "RecordedTrials.save"):
        arrays, metadata = read_arrays(path)
        newer = whole(metadata, "format_version", least=1) > FORMAT_VERSION
        recorded = None if newer else _table(path, arrays, metadata)
    if recorded is None:
        raise ValueError(
            f"Expected format version {FORMAT_VERSION} or older, but {os.fspath(path)!r} has "
            f"version {metadata['format_version']}. Upgrade optuna-aelle."
        )
    return recorded


def _table(
    path: str | os.PathLike[str], arrays: Arrays, metadata: Mapping[str, Any]
) -> RecordedTrials:
    if metadata["format_version"] == 1:
        if arrays["spectra"].size:
            warn_once(
                "older table",
                f"The spectra in {os.fspath(path)!r} are left out: format version 1 held unlike "
                "parts of the spectra of small and large networks. Record them again.",
            )
        n = len(arrays["numbers"])
        arrays |= {
            "spectrum_steps": np.zeros(0, dtype=np.int64),
            "spectra": np.zeros((n, 0, FINGERPRINT_LENGTH)),
            "spectrum_seconds": np.zeros((n, 0)),
            "state_sizes": np.zeros((n, 0), dtype=np.int32),
        }
    _check(arrays, metadata)
    variants = {
        name: [json_to_distribution(variant) for variant in written]
        for name, written in metadata["params"].items()
    }
    return RecordedTrials(
        name=text(metadata, "name"),
        direction=metadata["direction"],
        trials=tuple(_trial(arrays, variants, row) for row in range(len(arrays["numbers"]))),
        step_seconds=arrays["step_seconds"].astype(np.float64),
        curves={
            name.split(":", 1)[1]: array.astype(np.float64)
            for name, array in arrays.items()
            if name.startswith("curve:")
        },
        metadata=metadata["metadata"],
    )


def _check(arrays: Arrays, metadata: Mapping[str, Any]) -> None:
    """Say what could not have been written: it would do harm only later, within a replay."""
    for name in ("params", "metadata"):
        if not isinstance(metadata.get(name), dict):
            raise ValueError(f"its {name!r} is no object")
    n, n_params = len(arrays["numbers"]), len(metadata["params"])
    n_steps, n_spectra = len(arrays["steps"]), len(arrays["spectrum_steps"])
    curves = {name: ("f", (n, n_steps)) for name in arrays if name.startswith("curve:")}
    check_arrays(
        arrays,
        {
            "numbers": ("iu", (n,)),
            "finished": ("b", (n,)),
            "ends": ("f", (n,)),
            "times": ("f", (n, 2)),
            "params": ("f", (n, n_params)),
            "param_kinds": ("iu", (n, n_params)),
            "steps": ("iu", (n_steps,)),
            "values": ("f", (n, n_steps)),
            "reported": ("b", (n, n_steps)),
            "step_seconds": ("f", (n,)),
            "spectrum_steps": ("iu", (n_spectra,)),
            "spectra": ("f", (n, n_spectra, FINGERPRINT_LENGTH)),
            "spectrum_seconds": ("f", (n, n_spectra)),
            "state_sizes": ("iu", (n, n_spectra)),
            **curves,
        },
    )
    there = ~np.isnan(arrays["spectra"]).any(axis=2)
    wrong = {
        "numbers": len(np.unique(arrays["numbers"])) < n or (arrays["numbers"] < 0).any(),
        "ends": np.isnan(arrays["ends"][arrays["finished"]]).any(),
        "params": not np.isfinite(arrays["params"][arrays["param_kinds"] >= 0]).all(),
        "steps": (np.diff(arrays["steps"].astype(np.float64)) <= 0).any(),
        "spectrum_steps": (np.diff(arrays["spectrum_steps"].astype(np.float64)) <= 0).any(),
        "spectra": np.isposinf(arrays["spectra"]).any(),
        "state_sizes": (arrays["state_sizes"][there] < 1).any(),
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise ValueError(f"{name!r} holds what no study has")


def _trial(
    arrays: Mapping[str, npt.NDArray[Any]],
    variants: Mapping[str, Sequence[BaseDistribution]],
    row: int,
) -> FrozenTrial:
    kinds = arrays["param_kinds"][row]
    distributions = {
        name: variants[name][kind]
        for name, kind in zip(variants, kinds.tolist(), strict=True)
        if kind >= 0
    }
    internal = dict(zip(variants, arrays["params"][row].tolist(), strict=True))
    for name, distribution in distributions.items():
        if isinstance(distribution, CategoricalDistribution) and internal[name] < 0:
            raise ValueError(f"{name!r} is none of its choices")
    reports = {
        step: value
        for step, value, there in zip(
            arrays["steps"].tolist(),
            arrays["values"][row].tolist(),
            arrays["reported"][row].tolist(),
            strict=True,
        )
        if there
    }
    attributes: dict[str, Any] = {}
    for column, step in enumerate(arrays["spectrum_steps"].tolist()):
        points = arrays["spectra"][row, column].astype(np.float64)
        if np.isnan(points).any():
            continue
        attributes |= encode_fingerprint(
            points,
            step,
            state_size=int(arrays["state_sizes"][row, column]),
            seconds=float(arrays["spectrum_seconds"][row, column]),
        )
    return frozen_trial(
        number=int(arrays["numbers"][row]),
        finished=bool(arrays["finished"][row]),
        value=float(arrays["ends"][row]),
        times=tuple(map(_datetime, arrays["times"][row].tolist())),
        params={n: d.to_external_repr(internal[n]) for n, d in distributions.items()},
        distributions=distributions,
        reports=reports,
        attributes=attributes,
    )


def _timestamp(moment: datetime.datetime | None) -> float:
    return math.nan if moment is None else moment.timestamp()


def _datetime(timestamp: float) -> datetime.datetime | None:
    return None if math.isnan(timestamp) else datetime.datetime.fromtimestamp(timestamp)


def _narrowed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Half the bytes where no digit is lost."""
    if array.dtype != np.float64:
        return array
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    return narrow if np.array_equal(narrow, array, equal_nan=True) else array
