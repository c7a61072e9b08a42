"""What other studies say of a trial before its own study has spoken: a prior over its standing.

A prior is asked for untrained networks, for those in training, without spectra, without any knob
that it knows, and without a curve. It speaks of *standings* (`optuna_aelle.prediction.curves`):
0 is the middle of a study, 1 its spread, higher is better, whatever the metric.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING
from typing import Any
from typing import Literal

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial

from optuna_aelle.prediction.knobs import check_knobs
from optuna_aelle.prediction.network import Outlook
from optuna_aelle.prediction.network import StandingNetwork
from optuna_aelle.prediction.past import PastStudies
from optuna_aelle.prediction.traits import Population
from optuna_aelle.prediction.traits import Traits
from optuna_aelle.trials.attributes import UNTRAINED_STEP

if TYPE_CHECKING:
    import optuna

    from optuna_aelle.trials.table import RecordedTrials

FloatArray = npt.NDArray[np.float64]
Direction = Literal["minimize", "maximize"]


class Prior:
    """Knowledge of other studies; made by `Prior.pretrained`, `Prior.learn` or `Prior.load`.

    Args:
        network: What it learned over many tasks, if it did.
        past: A person's own studies on top of it, if there are any.
        tasks: The names of all that it has learned from.

    Attributes:
        tasks: As given.

    Example:
        >>> prior = Prior.pretrained()
        >>> means, stds = prior.predict(study.trials, step=-1)
    """

    def __init__(
        self,
        network: StandingNetwork | None = None,
        past: PastStudies | None = None,
        tasks: Iterable[str] = (),
    ) -> None:
        self.network = network
        self.past = past
        self.tasks = frozenset(tasks)

    def __repr__(self) -> str:
        own = 0 if self.past is None else self.past.n_studies
        return f"Prior({len(self.tasks)} tasks, {own} own studies)"

    @classmethod
    def pretrained(cls) -> Prior:
        """The prior that comes with this package, learned by ``python -m benchmarks.train_prior``.

        Raises:
            ValueError: The file is damaged, or the package is older than it.
        """
        return _pretrained()

    @classmethod
    def learn(
        cls,
        studies: Sequence[optuna.Study | RecordedTrials],
        base: Prior | str | os.PathLike[str] | None = None,
        *,
        knobs: Mapping[str, str] | None = None,
    ) -> Prior:
        """Add past studies to a prior; everything that has the same name there and here speaks.

        Args:
            studies: With one objective each; those of which fewer than six trials ended are
                passed over, with a warning.
            base: What to add to, or ``"pretrained"``, or the path of a file; `Prior.pretrained()`
                knows many tasks already. None for these studies alone.
            knobs: Own names of parameters, each to its common one (`knob_of`).

        Raises:
            TypeError: ``studies`` is no list, or ``base`` is of another type.
            ValueError: No study has enough trials, or one has several objectives.
        """
        from optuna_aelle.trials.table import RecordedTrials

        if not isinstance(studies, Sequence):
            raise TypeError(
                f"studies must be a list of studies or RecordedTrials, but got {studies!r}."
            )
        base = as_prior(base)
        without = cls(base.network, None, base.tasks)
        past = PastStudies.learn(studies, without, check_knobs(knobs), base.past)
        names = (s.task if isinstance(s, RecordedTrials) else s.study_name for s in studies)
        return cls(base.network, past, {*base.tasks, *names})

    def predict(
        self,
        trials: Sequence[FrozenTrial],
        step: int = UNTRAINED_STEP,
        *,
        direction: Direction = "minimize",
        among: Sequence[FrozenTrial] | Population | None = None,
        knobs: Mapping[str, str] | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the standings of trials, ``(n,)`` each.

        Args:
            trials: Of one study.
            step: What is known: reports and spectra up to this step; −1 for untrained networks.
            direction: Of the study; of untrained networks it does not matter.
            among: What they are seen against: the trials and candidates of their study; by default
                ``trials``.
            knobs: Own names of parameters, each to its common one (`knob_of`).
        """
        if not trials:
            return np.zeros(0), np.zeros(0)
        sign = 1.0 if direction == "maximize" else -1.0
        traits = Traits.read(trials, step, sign, check_knobs(knobs))
        if among is None:
            among = Population.among(traits, trials, sign)
        elif not isinstance(among, Population):
            among = Population.of(among, step, sign, knobs)
        mean, std = self.predict_traits(traits, among)
        if self.past is not None:
            mean, std = self.past.correct(trials, traits, mean, std)
        return mean, std

    def predict_traits(
        self, traits: Traits, population: Population
    ) -> tuple[FloatArray, FloatArray]:
        """The same of what has been read already, without a person's own studies."""
        outlook = self.outlook(traits, population)
        return outlook.mean, outlook.std

    def outlook(self, traits: Traits, population: Population) -> Outlook:
        """And what the networks of a study have in common."""
        if self.network is None:
            mean, std = by_curve_alone(traits, population)
            return Outlook(mean, std, std, np.zeros((len(mean), 0)))
        return self.network.outlook(traits.among(population))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file, at once or not at all (`optuna_aelle.prediction.prior_file`)."""
        from optuna_aelle.prediction.prior_file import write_prior

        write_prior(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | Any) -> Prior:
        """Read what `save` wrote.

        Raises:
            ValueError: The file is damaged, of another kind, or of a newer format than this
                version knows.
            FileNotFoundError: There is none.
        """
        from optuna_aelle.prediction.prior_file import read_prior

        return read_prior(path)


def by_curve_alone(traits: Traits, population: Population) -> tuple[FloatArray, FloatArray]:
    """Where nothing was learned elsewhere: the last value's rank, trusted more the longer."""
    rank = population.curve_columns(traits.curves)[:, 0]
    counts = np.array([len(curve) for curve in traits.curves])
    share = np.nan_to_num(counts / population.length, nan=0.3)
    # About how values of recorded trainings rank where they end: .68 after 1 of 27, .82 after 8.
    trust = np.where(np.isnan(rank), 0.0, np.minimum(0.6 + 0.4 * np.sqrt(share), 0.99))
    return trust * np.nan_to_num(rank), np.sqrt(1.0 - trust**2)


def as_prior(prior: Prior | str | os.PathLike[str] | None) -> Prior:
    """What users pass: ``"pretrained"``, a file, a prior, or None for none.

    Raises:
        TypeError: It is none of these.
    """
    if prior is None:
        return Prior()
    if isinstance(prior, Prior):
        return prior
    if prior == "pretrained":
        return Prior.pretrained()
    if isinstance(prior, str | os.PathLike):
        return Prior.load(prior)
    raise TypeError(
        "prior must be 'pretrained', the path of a file that Prior.save wrote, a Prior, or None, "
        f"but got {prior!r}."
    )


@lru_cache(maxsize=1)
def _pretrained() -> Prior:
    return Prior.load(files("optuna_aelle.prediction") / "pretrained.npz")
