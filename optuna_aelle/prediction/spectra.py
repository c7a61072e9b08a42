"""What AeLLE reads from the spectra of a study.

For the trials that it learned from, by the member that did not see them, so that a regression on
these scores cannot be fooled by what the autoencoder has memorised.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial

from optuna_aelle.trials.attributes import decode_spectra

FloatArray = npt.NDArray[np.float64]


class SpectrumRegressor(Protocol):
    """Reads a score from spectra ``(n, k)``; rows of one ``groups`` label are one network.

    A score that is NaN is not known; the others count by their weights.
    """

    out_of_fold_prediction_: FloatArray

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        groups: npt.ArrayLike,
        score_weights: npt.ArrayLike,
    ) -> object: ...

    def predict(self, X: npt.ArrayLike) -> FloatArray: ...


@dataclass(frozen=True, eq=False)
class SpectralScores:
    """A fitted regressor, and what it said of its own lessons without having seen them.

    Attributes:
        regressor: It.
        out_of_fold: Scores by the spectrum that they belong to: a network is known by its
            spectrum, in whatever copy of its trial.
    """

    regressor: SpectrumRegressor
    out_of_fold: dict[bytes, float]

    def read(self, trials: Sequence[FrozenTrial], step: int) -> FloatArray:
        """The score of each trial's latest spectrum up to ``step``, ``(n, 1)``; 0 without one."""
        scores = np.zeros((len(trials), 1))
        fresh: list[int] = []
        spectra: list[FloatArray] = []
        for row, trial in enumerate(trials):
            known = {s: x for s, x in decode_spectra(trial).items() if s <= step}
            if not known:
                continue
            spectrum = known[max(known)]
            score = self.out_of_fold.get(spectrum.tobytes())
            if score is not None:
                scores[row] = score
            else:
                fresh.append(row)
                spectra.append(spectrum)
        if fresh:
            scores[fresh, 0] = self.regressor.predict(np.stack(spectra))
        return scores


def fit_spectra(
    lessons: Sequence[FrozenTrial],
    standings: FloatArray,
    known: FloatArray,
    make_regressor: Callable[[], SpectrumRegressor],
    *,
    least_known: float,
    min_lessons: int,
) -> SpectralScores | None:
    """Learn from all spectra of all lessons; None where too few have one.

    Args:
        lessons: Ended trials.
        standings: ``(n,)`` theirs.
        known: ``(n,)`` how far each is known, in [0, 1].
        make_regressor: Makes what is fitted.
        least_known: Standings that are known less than this teach nothing.
        min_lessons: Lessons with a spectrum and a standing that are needed.
    """
    found = [
        (i, spectrum)
        for i, trial in enumerate(lessons)
        for spectrum in decode_spectra(trial).values()
    ]
    groups = [i for i, _ in found]
    if len({i for i in groups if known[i] >= least_known}) < min_lessons:
        return None
    regressor = make_regressor()
    of_row = known[groups]
    regressor.fit(
        np.stack([spectrum for _, spectrum in found]),
        np.where(of_row >= least_known, standings[groups], np.nan),
        groups=groups,
        score_weights=np.maximum(of_row, least_known),
    )
    same: dict[bytes, list[float]] = {}
    for (_, spectrum), score in zip(found, regressor.out_of_fold_prediction_, strict=True):
        same.setdefault(spectrum.tobytes(), []).append(float(score))
    # Networks that cannot be told apart (all directions dead, say) share what is said of them.
    return SpectralScores(regressor, {key: float(np.mean(x)) for key, x in same.items()})
