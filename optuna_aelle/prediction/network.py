"""The network that a prior asks: AeLLE's encoder and a regression on what else is known.

Each of its M members encodes the untrained fingerprint z₀ and the latest one z_t with one encoder,
trained to reconstruct spectra as well (`optuna_aelle.prediction.training`), and maps z₀, z_t,
z_t − z₀ and all other columns to mean and spread of the standing. Asked with numpy alone.

*Ways.* Tasks differ in what is good for them, and not in all directions: each study it learned
from has a place z in a space of d directions, and a network's mean there is m + z·g, with m and g
of its columns alone. Of a new study z ~ N(0, 1) is not known; what its trials show tells
(`optuna_aelle.prediction.process`).

Notation: n rows of `optuna_aelle.prediction.traits` columns, M members, d ways.

Source: Vogt, Zheng and Shlizerman, arXiv 2204.04876, whose read-out of the score is linear, on one
task, and sees the spectrum alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from optuna_aelle.prediction.knobs import NUMBERS
from optuna_aelle.prediction.traits import COLUMNS
from optuna_aelle.prediction.traits import FINGERPRINTS
from optuna_aelle.prediction.traits import N_COLUMNS

FloatArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# Columns that enter the regression as they are.
PLAIN = np.setdiff1d(np.arange(N_COLUMNS), np.concatenate([np.r_[s] for s in FINGERPRINTS]))
# Standardised columns further out are all alike: other studies' ranges may be far from ours.
_FAR = 4.0
_NUMBERS = slice(COLUMNS["knobs"].start, COLUMNS["knobs"].start + len(NUMBERS))
# Where nobody has been, nothing is better than at the edge: the worse, the further.
_BEYOND = 0.5
# Logarithms of the spread of a standing, which is about 1 where nothing is known.
LEAST_LOG_SPREAD, LARGEST_LOG_SPREAD = -3.0, 1.0


class Outlook(NamedTuple):
    """What is said of the networks of a study as long as nothing is known of the study.

    Attributes:
        mean: ``(n,)`` of the standings.
        std: ``(n,)`` of all that is not known.
        own: ``(n,)`` of what would be left if the study's place were known.
        ways: ``(n, M · d)`` how the means depend on the study's place, which has unit spread.
    """

    mean: FloatArray
    std: FloatArray
    own: FloatArray
    ways: FloatArray

    def narrowed(self, mean: FloatArray, std: FloatArray) -> Outlook:
        """The same where more is known; what it leaves is shared out as before."""
        share = std / self.std
        return Outlook(mean, std, self.own * share, self.ways * share[:, None])

    def weighted(self, weight: float) -> Outlook:
        """The same where it is believed as far as ``weight``, from −1 to 1."""
        share = abs(weight)
        nothing = (1.0 - share) * np.maximum(1.0, self.std**2)
        return Outlook(
            weight * self.mean,
            np.sqrt(share * self.std**2 + nothing),
            np.sqrt(share * self.own**2 + nothing),
            math.sqrt(share) * self.ways,
        )


@dataclass(frozen=True, eq=False)
class StandingNetwork:
    """Trained weights, and how columns are brought to their scale.

    Attributes:
        weights: Stacked over members, by name, as `optuna_aelle.prediction.training` makes them.
        center: ``(N_COLUMNS,)``.
        scale: ``(N_COLUMNS,)``.
        optional: ``(N_COLUMNS,)`` whether a column may be missing; it is then told that it is.
        reach: ``(2, len(NUMBERS))`` the least and the largest that any study had of each knob that
            is a number, scaled.
        stretch: ``(2,)`` factors of the spread, of untrained networks and of those in training, by
            which intervals hold on tasks that were left out.
    """

    weights: Mapping[str, SingleArray]
    center: FloatArray
    scale: FloatArray
    optional: BoolArray
    reach: FloatArray
    stretch: FloatArray

    def predict(self, columns: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the standings, ``(n,)`` each."""
        outlook = self.outlook(columns)
        return outlook.mean, outlook.std

    def outlook(self, columns: FloatArray) -> Outlook:
        """The same, and what networks of a study have in common."""
        spectra, plain = self.inputs(columns)
        # One member after the other: what is in between stays in the processor's cache.
        members = [self._member(m, spectra, plain) for m in range(len(self.weights["last"]))]
        out = np.stack([standing for standing, _ in members]).astype(np.float64)
        means = out[..., 0]
        spreads = np.exp(np.clip(out[..., 1:], LEAST_LOG_SPREAD, LARGEST_LOG_SPREAD))
        disagreement = means.var(axis=0)
        in_training = ~np.isnan(columns[:, COLUMNS["curve"].start])
        stretch = self.stretch[in_training.astype(np.intp)]
        std, own = (
            stretch * np.sqrt((spreads[..., i] ** 2).mean(axis=0) + disagreement) for i in (0, 1)
        )
        own = np.minimum(own, std)
        ways = np.concatenate([ways for _, ways in members], axis=1).astype(np.float64)
        # What the places of studies explain is known from both spreads, better than from places
        # that were held near the middle.
        explained, told = (std**2 - own**2).mean(), (ways**2).sum(axis=1).mean()
        ways *= math.sqrt(explained / max(told, 1e-9))
        return Outlook(means.mean(axis=0) - _BEYOND * self._beyond(columns), std, own, ways)

    def latents(self, columns: FloatArray) -> SingleArray:
        """Latents of the untrained and the latest fingerprints, ``(2, M, n, d)``."""
        members = range(len(self.weights["last"]))
        spectra, _ = self.inputs(columns)
        return np.stack([np.stack([self._encode(m, x) for m in members]) for x in spectra])

    def inputs(self, columns: FloatArray) -> tuple[list[SingleArray], SingleArray]:
        """Both fingerprints ``(n, k)``, and all other columns with what is missing ``(n, _)``."""
        missing = np.isnan(columns)
        scaled = np.clip((columns - self.center) / self.scale, -_FAR, _FAR)
        scaled[:, _NUMBERS] = np.clip(scaled[:, _NUMBERS], *self.reach)
        # Single precision, as the weights are: the differences lie far below the spread.
        x: SingleArray = np.where(missing, 0.0, scaled).astype(np.float32)
        told = missing[:, self.optional].astype(np.float32)
        plain: SingleArray = np.concatenate([x[:, PLAIN], told], axis=1)
        before, after = (x[:, s] for s in FINGERPRINTS)
        return [before, before if np.array_equal(before, after) else after], plain

    def _beyond(self, columns: FloatArray) -> FloatArray:
        """How far the knobs lie beyond what any study had, ``(n,)``."""
        scaled = (columns[:, _NUMBERS] - self.center[_NUMBERS]) / self.scale[_NUMBERS]
        distances = np.maximum(self.reach[0] - scaled, scaled - self.reach[1])
        return np.asarray(np.maximum(np.nan_to_num(distances), 0.0).sum(axis=1))

    def _member(
        self, m: int, spectra: Sequence[SingleArray], plain: SingleArray
    ) -> tuple[SingleArray, SingleArray]:
        """Standings with their spreads ``(n, 3)``, and ways ``(n, d)``, by one member."""
        w = {name: array[m] for name, array in self.weights.items()}
        before = self._encode(m, spectra[0])
        # Of untrained networks there is no other.
        after = before if spectra[1] is spectra[0] else self._encode(m, spectra[1])
        latents = np.concatenate([before, after, after - before], axis=1)
        n_plain = plain.shape[1]
        x = plain @ w["first"][:n_plain] + latents @ w["first"][n_plain:] + w["first_bias"]
        x = _silu(_silu(x) @ w["second"] + w["second_bias"])
        return x @ w["last"] + w["last_bias"], x @ w["ways"] + w["ways_bias"]

    def _encode(self, m: int, x: SingleArray) -> SingleArray:
        w = self.weights
        hidden = _silu(x @ w["encode_in"][m] + w["encode_in_bias"][m])
        return np.asarray(np.tanh(hidden @ w["encode_out"][m] + w["encode_out_bias"][m]))


def _silu(x: Any) -> SingleArray:
    # In place: fresh arrays for each operation would cost more than the operations.
    rest = np.maximum(x, -60.0)
    np.exp(np.negative(rest, out=rest), out=rest)
    rest += 1.0
    return np.asarray(np.divide(x, rest, out=rest))
