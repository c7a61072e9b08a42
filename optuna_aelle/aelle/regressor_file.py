"""A fitted `AeLLERegressor` as one ``.npz`` file, without pickles."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from optuna_aelle._files import Arrays
from optuna_aelle._files import check_arrays
from optuna_aelle._files import damage_told
from optuna_aelle._files import read_arrays
from optuna_aelle._files import write_arrays
from optuna_aelle.aelle.checks import check_parameters

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
    write_arrays(path, json.loads(text), arrays)


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
    with damage_told(path, "AeLLERegressor.save"):
        arrays, metadata = read_arrays(path)
        version = metadata["format_version"]
        if not isinstance(version, int):
            raise ValueError("its version is no whole number")
        estimator = _regressor(cls, arrays, metadata) if version == FORMAT_VERSION else None
    if estimator is None:
        raise ValueError(
            f"Expected format version {FORMAT_VERSION}, but {os.fspath(path)!r} has version "
            f"{version!r}. Update optuna-aelle, or save it again with this version."
        )
    return estimator


def _regressor(
    cls: type[AeLLERegressor], arrays: Arrays, metadata: Mapping[str, Any]
) -> AeLLERegressor:
    estimator = cls(**metadata["params"])
    check_parameters(estimator)
    names, fitted = metadata["feature_names"], metadata["fitted"]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("its 'feature_names' is no list of names")
    for name in _SCALARS:
        value = fitted[name]
        if not isinstance(value, int | float):
            raise ValueError(f"its {name!r} is no number")
        setattr(estimator, name, value)
    n_members, k = estimator.n_members + 1, estimator.n_features_in_
    shapes = {"center_": (k,), "scale_": (k,), "out_of_fold_prediction_": (None,)}
    shapes |= {"score_mean_": (n_members,), "score_std_": (n_members,)}
    check_arrays(arrays, {name: ("f", shape) for name, shape in shapes.items()})
    for name in _ARRAYS:
        setattr(estimator, name, arrays.pop(name))
    if names:
        estimator.feature_names_in_ = np.array(names, dtype=object)
    estimator._weights = {name.removeprefix("weights."): value for name, value in arrays.items()}
    # Whatever is missing or of another shape is missed now, and not in a study.
    mean, latent = estimator.predict(np.zeros((1, k))), estimator.transform(np.zeros((1, k)))
    if not np.isfinite(mean).all() or not np.isfinite(estimator.inverse_transform(latent)).all():
        raise ValueError("it answers NaN")
    return estimator
