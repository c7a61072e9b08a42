"""All that a prior reads of a trial, in numbers that mean the same in every study.

Four groups of columns, each of which may be missing (NaN):

- *knobs*: in natural units, and relative to the population;
- *spectra*: the untrained network's fingerprint, the latest one, what sums them up, and the latter
  relative to the population;
- *curve*: where last value, mean, best and latest gains rank among those that reported as often,
  and how large they are in units of the population's median-to-best range;
- *time*: reports so far, their share of a whole training, the size of the population.

The *population* is what the trial is seen against: the other trials and candidates of its study.
One and the same spectrum is promising in one space and poor in another.

Notation: n trials, m of a population, k = `FINGERPRINT_LENGTH`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.prediction.curves import reports
from optuna_aelle.prediction.curves import score_against
from optuna_aelle.prediction.knobs import N_KNOB_COLUMNS
from optuna_aelle.prediction.knobs import NUMBERS
from optuna_aelle.prediction.knobs import knob_columns
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import decode_spectra

FloatArray = npt.NDArray[np.float64]

# Fewer say nothing of where a trial stands among them.
LEAST_POPULATION = 6
# A dead direction: further down nothing is told apart.
_LEAST_EXPONENT = -50.0
# Exponents in nats per step, as sign(λ) ln(1 + λ / this): near 0 differences count, far below
# ratios do.
_NEAR_ZERO = 0.2
# An exponent above 0 expands, above −.05 remembers for tens of steps, above −.5 for a few.
_LEVELS = (0.0, -0.05, -0.5)
_QUANTILES = (0, 10, 20, FINGERPRINT_LENGTH - 1)
# Standard scores and gains further out are all alike.
_FAR = 4.0

_N_SUMMARY = len(_QUANTILES) + 2 + len(_LEVELS)
_N_SPECTRUM = FINGERPRINT_LENGTH + 2 * _N_SUMMARY
_N_CURVE = 8
# Of the curve's columns: levels as ranks, and what is measured in units of the population's range.
_RANKS, _SIZES = slice(0, 3), slice(5, _N_CURVE)


def _layout() -> dict[str, slice]:
    sizes = {
        "knobs": N_KNOB_COLUMNS + len(NUMBERS),
        "untrained": _N_SPECTRUM,
        "latest": _N_SPECTRUM,
        "curve": _N_CURVE,
        "time": 3,
    }
    ends = np.cumsum(list(sizes.values())).tolist()
    return {
        name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)
    }


# Where each group of columns lies.
COLUMNS = _layout()
N_COLUMNS = COLUMNS["time"].stop
# The fingerprints themselves, which the encoder reads.
FINGERPRINTS = tuple(
    slice(COLUMNS[name].start, COLUMNS[name].start + FINGERPRINT_LENGTH)
    for name in ("untrained", "latest")
)


class Row(NamedTuple):
    """Fingerprints ``(k,)`` in nats per step, NaN where there is none, and the curve so far."""

    untrained: FloatArray
    latest: FloatArray
    curve: FloatArray


@dataclass(frozen=True, eq=False)
class Traits:
    """What is read of trials at one moment, before they are compared with a population.

    Attributes:
        knobs: ``(n, N_KNOB_COLUMNS)``.
        untrained: ``(n, k)`` exponents of the untrained network, squashed.
        latest: ``(n, k)`` those of the last spectrum up to the moment.
        summaries: ``(2, n, _)`` of the former and the latter.
        curves: n curves up to the moment, higher is better.
    """

    knobs: FloatArray
    untrained: FloatArray
    latest: FloatArray
    summaries: FloatArray
    curves: tuple[FloatArray, ...]

    def __len__(self) -> int:
        return len(self.knobs)

    @classmethod
    def read(
        cls,
        trials: Sequence[FrozenTrial],
        step: int,
        sign: float,
        knobs: Mapping[str, str] | None = None,
    ) -> Traits:
        """What was known of trials of one study up to a step; ``sign`` is −1 to minimise."""
        columns = knob_columns(trials, knobs)
        rows = [read_row(trial, step, sign) for trial in trials]
        return cls.of_rows(columns, rows)

    @classmethod
    def of_rows(cls, knobs: FloatArray, rows: Sequence[Row]) -> Traits:
        """Of trials that have been read one by one."""
        nothing = np.zeros((0, FINGERPRINT_LENGTH))
        untrained = np.stack([row.untrained for row in rows]) if rows else nothing
        latest = np.stack([row.latest for row in rows]) if rows else nothing
        return cls.from_arrays(knobs, untrained, latest, [row.curve for row in rows])

    @classmethod
    def from_arrays(
        cls,
        knobs: FloatArray,
        untrained: FloatArray,
        latest: FloatArray,
        curves: Sequence[FloatArray],
    ) -> Traits:
        """From exponents in nats per step and curves of which higher is better."""
        return cls(
            knobs=knobs,
            untrained=_squashed(untrained),
            latest=_squashed(latest),
            summaries=np.stack([_summary(untrained), _summary(latest)]),
            curves=tuple(curves),
        )

    @property
    def relative(self) -> FloatArray:
        """The columns that are compared with a population, ``(n, _)``."""
        return np.concatenate([self.knobs[:, : len(NUMBERS)], *self.summaries], axis=1)

    def among(self, population: Population) -> FloatArray:
        """All columns, ``(n, N_COLUMNS)``."""
        compared = population.standard_scores(self.relative)
        of_knobs, *of_spectra = np.split(
            compared, [len(NUMBERS), len(NUMBERS) + _N_SUMMARY], axis=1
        )
        parts = [self.knobs, of_knobs]
        for exponents, summary, own in zip(
            (self.untrained, self.latest), self.summaries, of_spectra, strict=True
        ):
            parts += [exponents, summary, own]
        counts = np.array([len(curve) for curve in self.curves])
        parts.append(population.curve_columns(self.curves))
        time = np.full((len(self), 3), math.nan)
        time[:, 0] = np.log2(counts + 1.0)
        time[:, 1] = counts / population.length
        time[:, 2] = math.log(max(population.size, 1))
        return np.concatenate([*parts, time], axis=1)


class Population:
    """What trials of a study are seen against.

    Args:
        relative: ``(m, _)`` as `Traits.relative` has it, of networks at the same moment.
        curves: Of all trials that reported anything, whole; higher is better.
        length: Reports of a whole training; NaN where nobody knows yet.
        standing: Mean and spread of the standings of those that have curves, where they were not
            chosen at random.
    """

    def __init__(
        self,
        relative: FloatArray,
        curves: Sequence[FloatArray],
        length: float = math.nan,
        standing: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.size = len(relative)
        self.length = length
        self._mean, self._breadth = standing
        self._places = _Places(curves)
        known = (~np.isnan(relative)).sum(axis=0)
        filled = np.nan_to_num(relative)
        self._center = filled.sum(axis=0) / np.maximum(known, 1)
        deviations = np.where(np.isnan(relative), 0.0, relative - self._center)
        self._spread = np.sqrt((deviations**2).sum(axis=0) / np.maximum(known, 1))
        self._known = known >= LEAST_POPULATION

    @classmethod
    def of(
        cls,
        trials: Sequence[FrozenTrial],
        step: int,
        sign: float,
        knobs: Mapping[str, str] | None = None,
    ) -> Population:
        """The trials of a study, or of a space its candidates."""
        return cls.among(Traits.read(trials, step, sign, knobs), trials, sign)

    @classmethod
    def among(cls, traits: Traits, trials: Sequence[FrozenTrial], sign: float) -> Population:
        """The same where their traits have been read already."""
        finished = [t for t in trials if t.state == TrialState.COMPLETE and t.intermediate_values]
        return cls(
            traits.relative,
            [curve_of(trial, math.inf, sign) for trial in trials],
            max((len(t.intermediate_values) for t in finished), default=math.nan),
        )

    def seen_as(self, standing: tuple[float, float]) -> Population:
        """The same, whose curves are those of a selection with this mean and spread."""
        other = copy.copy(self)
        other._mean, other._breadth = standing
        return other

    def standard_scores(self, relative: FloatArray) -> FloatArray:
        """``(n, _)``; NaN where too few of the population are known."""
        scores = np.clip((relative - self._center) / (self._spread + 1e-6), -_FAR, _FAR)
        return np.where(self._known, scores, math.nan)

    def curve_columns(self, curves: Sequence[FloatArray]) -> FloatArray:
        """Where curves stand among those that reported as often, ``(n, _)``; NaN without any."""
        columns = self._places.of(curves).copy()
        # As they would rank in a population that was not chosen.
        columns[:, _RANKS] = self._mean + self._breadth * columns[:, _RANKS]
        columns[:, _SIZES] *= self._breadth
        return columns


class _Places:
    """Where curves stand, computed once for those that are asked for again."""

    def __init__(self, curves: Sequence[FloatArray]) -> None:
        self._curves = [curve for curve in curves if len(curve)]
        self._peers: dict[int, _Peers] = {}
        self._latest: tuple[Sequence[FloatArray], FloatArray] | None = None

    def of(self, curves: Sequence[FloatArray]) -> FloatArray:
        """``(n, _N_CURVE)``."""
        if self._latest is not None and self._latest[0] is curves:
            return self._latest[1]
        columns = np.full((len(curves), _N_CURVE), math.nan)
        counts = np.array([len(curve) for curve in curves])
        for count in np.unique(counts[counts > 0]).tolist():
            rows = np.flatnonzero(counts == count)
            if count not in self._peers:
                peers = [curve[:count] for curve in self._curves if len(curve) >= count]
                self._peers[count] = _Peers(peers)
            columns[rows] = self._peers[count].place(np.stack([curves[int(i)] for i in rows]))
        self._latest = curves, columns
        return columns


class _Peers:
    """Those who reported so often; what is not finite is worse than anything."""

    def __init__(self, curves: Sequence[FloatArray]) -> None:
        self._ranked: list[FloatArray] = []
        self._best = self._range = math.nan
        if curves:
            stacked = np.stack(curves)
            self._ranked = [np.sort(column) for column in _statistics(stacked).T]
            last = stacked[:, -1][np.isfinite(stacked[:, -1])]
            if len(last) > 1:
                self._best = float(last.max())
                self._range = self._best - float(np.median(last)) or 1.0

    def place(self, curves: FloatArray) -> FloatArray:
        """``(n, _N_CURVE)`` of curves ``(n, count)``."""
        columns = np.full((len(curves), _N_CURVE), math.nan)
        statistics = _statistics(curves)
        for column, reference in enumerate(self._ranked):
            columns[:, column] = score_against(statistics[:, column], reference)
        with np.errstate(invalid="ignore"):
            behind = (statistics[:, 0] - self._best) / self._range
            columns[:, 5] = np.clip(behind, -2 * _FAR, 1.0)
            columns[:, 6:] = np.clip(statistics[:, 3:5] / self._range, -_FAR, _FAR)
        return columns


def read_row(trial: FrozenTrial, step: float, sign: float) -> Row:
    """Spectra and curve of one trial up to a step."""
    spectra = {s: x for s, x in decode_spectra(trial).items() if s <= step}
    missing = np.full(FINGERPRINT_LENGTH, math.nan)
    return Row(
        spectra.get(UNTRAINED_STEP, missing),
        spectra[max(spectra)] if spectra else missing,
        curve_of(trial, step, sign),
    )


def curve_of(trial: FrozenTrial, step: float, sign: float) -> FloatArray:
    """What a trial had reported up to a step, higher is better.

    The last that a finished one has told is what its objective returned: the best of its epochs,
    maybe, and not the last.
    """
    told = reports(trial, step)
    last = UNTRAINED_STEP + 1 if trial.last_step is None else trial.last_step
    if step >= last and trial.state == TrialState.COMPLETE and trial.values is not None:
        told = [*told[:-1], float(trial.values[0])]
    return sign * np.asarray(told, dtype=np.float64)


def _statistics(curves: FloatArray) -> FloatArray:
    """Last value, mean, best, last gain and gain over the latter half, ``(n, 5)``."""
    count = curves.shape[1]
    finite = np.where(np.isfinite(curves), curves, math.nan)
    known = ~np.isnan(finite)
    n_known = known.sum(axis=1)
    last = np.where(known[:, -1], finite[:, -1], -np.inf)
    mean = np.where(n_known > 0, np.nansum(finite, axis=1) / np.maximum(n_known, 1), -np.inf)
    best = np.where(known, finite, -np.inf).max(axis=1)
    gains = []
    for before in (count - 2, (count - 1) // 2):
        if count < 2:
            gains.append(np.zeros(len(curves)))
            continue
        # Who has diverged has lost, and who has come back has gained nothing that counts.
        gain = np.where(known[:, before], finite[:, -1] - finite[:, before], 0.0)
        gains.append(np.where(known[:, -1], gain, -np.inf))
    return np.stack([last, mean, best, *gains], axis=1)


def _squashed(exponents: FloatArray) -> FloatArray:
    x = np.maximum(exponents, _LEAST_EXPONENT)
    return np.asarray(np.sign(x) * np.log1p(np.abs(x) / _NEAR_ZERO))


def _summary(exponents: FloatArray) -> FloatArray:
    """Of spectra ``(n, k)``: quantiles, mean, spread and shares above three levels."""
    x = np.maximum(exponents, _LEAST_EXPONENT)
    missing = np.isnan(x).any(axis=1)
    columns = [_squashed(x[:, list(_QUANTILES)]), _squashed(x.mean(axis=1, keepdims=True))]
    columns.append(np.log1p(x.std(axis=1, keepdims=True)))
    columns += [(x > level).mean(axis=1, keepdims=True) for level in _LEVELS]
    summary = np.concatenate(columns, axis=1)
    summary[missing] = math.nan
    return summary
