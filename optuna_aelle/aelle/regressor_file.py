"""A fitted `AeLLERegressor` as one ``.npz`` file, without pickles."""

from __future__ import annotations

import json
import os
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from optuna_aelle.aelle.regressor import AeLLERegressor

FORMAT_VERSION = 1

_ARRAYS = ("center_", "scale_", "score_mean_", "score_std_", "out_of_fold_prediction_")
_SCALARS = ("n_features_in_", "resamples_", "slope_", "residual_std_")


def write_regressor(regressor: AeLLERegressor, path: str | os.PathLike[str]) -> None:
    """Write parameters and fitted state.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from optuna_aelle.aelle import AeLLERegressor
        >>> regressor = AeLLERegressor().fit(-np.random.rand(20, 8), np.random.rand(20))
        >>> with TemporaryDirectory() as folder:
        ...     write_regressor(regressor, Path(folder) / "regressor.npz")
        ...     again = read_regressor(AeLLERegressor, Path(folder) / "regressor.npz")
        >>> again.slope_ == regressor.slope_
        True
    """
    params = regressor.get_params()
    if not isinstance(params["random_state"], Integral):
        params["random_state"] = None
    metadata = {
        "format_version": FORMAT_VERSION,
        "params": params,
        "fitted": {name: getattr(regressor, name) for name in _SCALARS},
        "feature_names": getattr(regressor, "feature_names_in_", np.empty(0)).tolist(),
    }
    arrays = {name: getattr(regressor, name) for name in _ARRAYS}
    arrays |= {f"weights.{name}": value for name, value in regressor._weights.items()}
    text = json.dumps(metadata, default=lambda value: value.item())
    # A handle rather than a name: numpy would append ".npz" to a name that lacks it.
    with open(path, "wb") as file:
        np.savez(file, metadata=np.array(text), **arrays)


def read_regressor(cls: type[AeLLERegressor], path: str | os.PathLike[str]) -> AeLLERegressor:
    """Read what `write_regressor` wrote.

    Raises:
        ValueError: The file is of another kind, or of a newer format than this version knows.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from optuna_aelle.aelle import AeLLERegressor
        >>> regressor = AeLLERegressor().fit(-np.random.rand(20, 8), np.random.rand(20))
        >>> with TemporaryDirectory() as folder:
        ...     write_regressor(regressor, Path(folder) / "regressor.npz")
        ...     again = read_regressor(AeLLERegressor, Path(folder) / "regressor.npz")
        >>> again.slope_ == regressor.slope_
        True
    """
    file = np.load(path, allow_pickle=False)
    if "metadata" not in getattr(file, "files", ()):
        raise ValueError(
            f"Expected a file written by AeLLERegressor.save, but {os.fspath(path)!r} has no "
            "metadata. Fit an estimator and save it there."
        )
    with file:
        metadata = json.loads(str(file["metadata"]))
        arrays = {name: file[name] for name in file.files if name != "metadata"}
    version = metadata["format_version"]
    if version > FORMAT_VERSION:
        raise ValueError(
            f"Expected format version {FORMAT_VERSION} or older, but {os.fspath(path)!r} has "
            f"version {version}. Update optuna-aelle, or save it again with this version."
        )
    estimator = cls(**metadata["params"])
    for name, value in metadata["fitted"].items():
        setattr(estimator, name, value)
    for name in _ARRAYS:
        setattr(estimator, name, arrays.pop(name))
    if metadata["feature_names"]:
        estimator.feature_names_in_ = np.array(metadata["feature_names"], dtype=object)
    estimator._weights = {name.split(".", 1)[1]: value for name, value in arrays.items()}
    return estimator
