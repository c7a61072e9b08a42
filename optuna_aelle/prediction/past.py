"""What a person's own past studies add to a prior.

Their trials ended above or below what the prior's network had said of them. A Gaussian process
over everything that has the same name there and here, and over the untrained spectrum, learns by
how much; evidence decides what counts (`optuna_aelle.prediction.evidence`).

Notation: n past trials, q asked ones, d parameters as columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import CategoricalDistribution
from optuna.study import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from optuna_aelle._warnings import warn_once
from optuna_aelle.prediction.curves import is_lesson
from optuna_aelle.prediction.curves import standings
from optuna_aelle.prediction.evidence import EvidenceRegression
from optuna_aelle.prediction.evidence import fit_evidence
from optuna_aelle.prediction.kernels import CONSTANT
from optuna_aelle.prediction.kernels import LINEAR
from optuna_aelle.prediction.kernels import PAIRWISE
from optuna_aelle.prediction.traits import LEAST_POPULATION
from optuna_aelle.prediction.traits import Population
from optuna_aelle.prediction.traits import Traits
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.trials.table import RecordedTrials

if TYPE_CHECKING:
    from optuna_aelle.prediction.prior import Prior

FloatArray = npt.NDArray[np.float64]

_KERNELS = (LINEAR, PAIRWISE)
# How far the next study is like these. Of the same space all would do as well before training; of
# another cell's, all of it ranks worse than none.
_ALIKE = 0.5
# More would make every question slow; the latest studies are kept.
MOST_PAST = 600


class PastStudies:
    """Trials of past studies, and how far each ended from what had been expected of it.

    Args:
        rows: ``(n,)`` their parameters, by name.
        logarithmic: Names of numbers that are searched on a logarithmic scale.
        spectra: ``(n, _)`` untrained fingerprints, squashed; NaN where there is none.
        residuals: ``(n,)`` standing less what the network had said.
        doubts: ``(n,)`` variances of the standings.
        n_studies: That they come from.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        logarithmic: Sequence[str],
        spectra: FloatArray,
        residuals: FloatArray,
        doubts: FloatArray,
        n_studies: int,
    ) -> None:
        self.rows = [dict(row) for row in rows]
        self.logarithmic = sorted(logarithmic)
        self.spectra, self.residuals, self.doubts = spectra, residuals, doubts
        self.n_studies = n_studies
        self._scale = _Columns(self.rows, self.logarithmic)
        self._spectrum_center = _mean(spectra)
        self._spectrum_scale = float(np.nanstd(spectra)) if np.isfinite(spectra).any() else 1.0
        groups = self._groups(self.rows, spectra)
        self._own = groups
        grams = [kernel.between(a, a) for kernel, a in groups]
        self._fit: EvidenceRegression = fit_evidence(grams, residuals, doubts)

    @classmethod
    def learn(
        cls,
        studies: Sequence[Study | RecordedTrials],
        base: Prior,
        knobs: Mapping[str, str],
        earlier: PastStudies | None,
    ) -> PastStudies:
        """Of other studies, on top of those that were learned before.

        Raises:
            ValueError: None of the studies has enough trials, or one has several objectives.
        """
        rows: list[dict[str, Any]] = [] if earlier is None else list(earlier.rows)
        logarithmic = set() if earlier is None else set(earlier.logarithmic)
        parts = [] if earlier is None else [(earlier.spectra, earlier.residuals, earlier.doubts)]
        n_studies = 0 if earlier is None else earlier.n_studies
        for study in studies:
            name, sign, trials = _lessons_of(study)
            if len(trials) < LEAST_POPULATION:
                warn_once(
                    f"nothing to learn:{name}",
                    f"Nothing is learned from '{name}': it has {len(trials)} trials that ended, "
                    f"and fewer than {LEAST_POPULATION} say too little.",
                )
                continue
            places, doubts = standings(trials, sign)
            traits = Traits.read(trials, UNTRAINED_STEP, sign, knobs)
            population = Population(traits.relative, [])
            expected, _ = base.predict_traits(traits, population)
            rows += [_plain(trial.params) for trial in trials]
            logarithmic |= {
                name
                for trial in trials
                for name, distribution in trial.distributions.items()
                if getattr(distribution, "log", False)
                and not isinstance(distribution, CategoricalDistribution)
            }
            parts.append((traits.untrained, places - expected, doubts))
            n_studies += 1
        if not parts or n_studies == (0 if earlier is None else earlier.n_studies):
            raise ValueError(
                f"Expected studies with at least {LEAST_POPULATION} trials that ended, got none "
                f"among {len(studies)}. Pass studies that have run for a while."
            )
        spectra, residuals, doubts = (np.concatenate(x) for x in zip(*parts, strict=True))
        kept = slice(-MOST_PAST, None)
        return cls(
            rows[kept],
            sorted(logarithmic),
            spectra[kept],
            residuals[kept],
            doubts[kept],
            n_studies,
        )

    def correct(
        self, trials: Sequence[FrozenTrial], traits: Traits, mean: FloatArray, std: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """What the network says, with what these studies add; the less, the more is known."""
        groups = self._groups([_plain(trial.params) for trial in trials], traits.untrained)
        cross = [k.between(a, b) for (k, a), (_, b) in zip(groups, self._own, strict=True)]
        own = [k.own(a) for k, a in groups]
        shift, own_std = self._fit.predict(cross, own)
        # A curve says itself what the past says of where it will end.
        open_share = np.clip(std, 0.0, 1.0) ** 2
        known = _ALIKE**2 * open_share * np.maximum(std**2 - own_std**2, 0.0)
        return mean + _ALIKE * open_share * shift, np.sqrt(std**2 - known)

    def metadata(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        return {"rows": self.rows, "logarithmic": self.logarithmic, "n_studies": self.n_studies}

    def _groups(self, rows: Sequence[Mapping[str, Any]], spectra: FloatArray) -> list[Any]:
        columns = self._scale.of(rows)
        read = np.nan_to_num((spectra - self._spectrum_center) / (self._spectrum_scale or 1.0))
        groups = [(CONSTANT, np.zeros((len(rows), 1)))]
        if columns.shape[1]:
            groups += [(kernel, columns) for kernel in _KERNELS]
        return [*groups, (LINEAR, read)]


def _lessons_of(study: Study | RecordedTrials) -> tuple[str, float, list[FrozenTrial]]:
    """Name, sign of the direction and the trials that teach something, one a network."""
    if isinstance(study, RecordedTrials):
        name, maximize, trials = study.name, study.direction == "maximize", study.trials
    else:
        name = study.study_name
        if len(study.directions) > 1:
            raise ValueError(
                f"Expected studies with one objective, but '{name}' has "
                f"{len(study.directions)}. Leave it out."
            )
        maximize = study.direction == StudyDirection.MAXIMIZE
        trials = tuple(study.get_trials(deepcopy=False))
    return name, 1.0 if maximize else -1.0, one_a_network(list(filter(is_lesson, trials)))


class _Columns:
    """Parameters by name as columns of unit spread; 0, the mean, where a trial has none."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], logarithmic: Sequence[str]) -> None:
        self._logarithmic = set(logarithmic)
        names = sorted({name for row in rows for name in row})
        self._numbers = [
            name for name in names if all(_is_number(row[name]) for row in rows if name in row)
        ]
        self._choices = [
            (name, choice)
            for name in names
            if name not in self._numbers
            for choice in sorted({json.dumps(row[name]) for row in rows if name in row})
        ]
        raw = self._raw(rows)
        self._center = _mean(raw)
        known = ~np.isnan(raw)
        deviations = np.where(known, raw - self._center, 0.0)
        spread = np.sqrt((deviations**2).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
        self._varies = spread > 1e-9
        self._scale = np.where(self._varies, spread, 1.0)

    def of(self, rows: Sequence[Mapping[str, Any]]) -> FloatArray:
        scaled = np.nan_to_num((self._raw(rows) - self._center) / self._scale)
        return np.asarray(np.clip(scaled, -4.0, 4.0)[:, self._varies])

    def _raw(self, rows: Sequence[Mapping[str, Any]]) -> FloatArray:
        raw = np.full((len(rows), len(self._numbers) + len(self._choices)), math.nan)
        for own, row in zip(raw, rows, strict=True):
            for column, name in enumerate(self._numbers):
                value = row.get(name)
                if _is_number(value):
                    assert value is not None
                    log = name in self._logarithmic
                    if not log or value > 0:
                        own[column] = math.log(value) if log else float(value)
            for column, (name, choice) in enumerate(self._choices, start=len(self._numbers)):
                if name in row:
                    own[column] = float(json.dumps(row[name]) == choice)
        return raw


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON has them: what is neither number nor text, by what it is printed as."""
    return {
        name: value if isinstance(value, str | int | float | bool | None) else repr(value)
        for name, value in params.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _mean(columns: FloatArray) -> FloatArray:
    known = ~np.isnan(columns)
    total = np.where(known, columns, 0.0).sum(axis=0)
    return np.asarray(total / np.maximum(known.sum(axis=0), 1))
