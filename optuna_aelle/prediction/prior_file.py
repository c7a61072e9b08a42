"""A `Prior` as one ``.npz`` file, without pickles."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optuna_aelle.prediction.network import StandingNetwork
from optuna_aelle.prediction.past import PastStudies
from optuna_aelle.prediction.prior import Prior
from optuna_aelle.prediction.traits import N_COLUMNS

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
    target = Path(path)
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=f".{target.name}.", delete=False
    ) as file:
        try:
            np.savez_compressed(file, metadata=np.array(json.dumps(metadata)), **arrays)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise


def read_prior(path: Any) -> Prior:
    """Read what `write_prior` wrote.

    Raises:
        ValueError: The file is damaged, of another kind, or of a newer format than this version
            knows.
    """
    try:
        with path.open("rb") if hasattr(path, "open") else open(path, "rb") as handle:
            file = np.load(handle, allow_pickle=False)
            arrays = {name: file[name] for name in file.files}
        metadata = json.loads(str(arrays.pop("metadata")))
        if metadata["kind"] != KIND:
            raise KeyError("kind")
        version, n_columns = int(metadata["format_version"]), metadata.get("n_columns", N_COLUMNS)
        known = version == FORMAT_VERSION and n_columns == N_COLUMNS
        prior = _prior(arrays, metadata) if known else None
    except FileNotFoundError:
        raise
    except (
        AttributeError,
        EOFError,
        IndexError,
        KeyError,
        OSError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(
            f"Expected a file written by Prior.save, but {str(path)!r} is damaged or of another "
            f"kind ({type(error).__name__}: {error}). Save the prior again, or install "
            "optuna-aelle anew if it is the one that came with it."
        ) from error
    if prior is None:
        raise ValueError(
            f"Expected a prior of format version {FORMAT_VERSION} that reads {N_COLUMNS} columns, "
            f"but {str(path)!r} has version {version} and reads {n_columns}. "
            "Update optuna-aelle, or learn it again with this version."
        )
    return prior


def _prior(arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> Prior:
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
        network.outlook(np.zeros((1, N_COLUMNS)))
    if "past" in metadata:
        own = metadata["past"]
        spectra, residuals, doubts = (arrays[f"past.{name}"] for name in _PAST)
        past = PastStudies(
            own["rows"], own["logarithmic"], spectra, residuals, doubts, int(own["n_studies"])
        )
    return Prior(network, past, metadata["tasks"])
