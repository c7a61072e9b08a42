"""What does AeLLE add over a linear model of the spectrum? The regressors of the ablations.

They take the place of `AeLLERegressor` in an `AeLLEPruner` (`benchmarks.decisions.arms`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.preprocessing import StandardScaler

FloatArray = npt.NDArray[np.float64]

# Ridge penalties to choose from by held-out error, for columns of unit spread.
_PENALTIES = (1.0, 10.0, 100.0, 1000.0)


class LinearRegressor:
    """What AeLLE is compared with: ridge on the spectrum, or on its principal components.

    Args:
        n_components: How many; None for the whole spectrum.
        random_state: Not used: nothing is drawn.
    """

    out_of_fold_prediction_: FloatArray

    def __init__(self, n_components: int | None, random_state: int) -> None:
        self._n_components = n_components

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        groups: npt.ArrayLike,
        score_weights: npt.ArrayLike,
    ) -> LinearRegressor:
        rows, targets = np.asarray(X), np.asarray(y)
        known = ~np.isnan(targets)
        weights, labels = np.asarray(score_weights)[known], np.asarray(groups)[known]
        folds = list(GroupKFold(min(5, len(np.unique(labels)))).split(rows[known], groups=labels))
        # The penalty, too, is chosen across networks, not across epochs of one.
        best = np.inf
        for penalty in _PENALTIES:
            # A fold leaves out up to half of the networks.
            model = self._pipeline(penalty, int(known.sum()) // 2)
            held_out = cross_val_predict(
                model,
                rows[known],
                targets[known],
                cv=folds,
                params={"ridge__sample_weight": weights},
            )
            error = float(np.average((held_out - targets[known]) ** 2, weights=weights))
            if error < best:
                best, self._model, chosen = error, model, held_out
        self._model.fit(rows[known], targets[known], ridge__sample_weight=weights)
        self.out_of_fold_prediction_ = self.predict(rows)
        self.out_of_fold_prediction_[known] = chosen
        return self

    def _pipeline(self, penalty: float, most: int) -> Pipeline:
        steps = [FunctionTransformer(_squash), StandardScaler()]
        if self._n_components is not None:
            steps.append(PCA(min(self._n_components, most)))
        return make_pipeline(*steps, Ridge(penalty))

    def predict(self, X: npt.ArrayLike) -> FloatArray:
        return np.asarray(self._model.predict(X))


def _squash(exponents: FloatArray) -> FloatArray:
    """As AeLLE sees them."""
    return np.asarray(np.arcsinh(np.maximum(exponents, -50.0) / 0.1))
