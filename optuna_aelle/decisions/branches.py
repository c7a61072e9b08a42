"""Which parameters a configuration will have, where a search space has branches.

Optuna's samplers may draw the parameters of all branches at once; which of them a trial will
suggest is decided in the user's objective. The trials that have run show it: whether a parameter
is there is learned from the parameters that are more common, by a decision tree.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial
from sklearn.tree import DecisionTreeClassifier

from optuna_aelle.trials.storage import every_trial

FloatArray = npt.NDArray[np.float64]

# What a parameter that is not there counts as: below every choice, and apart from it.
_ABSENT = -1e9


class Branches:
    """The branches that some trials have taken.

    Args:
        trials: That have run; at least one.
    """

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        n_with: dict[str, int] = {}
        self._distributions: dict[str, BaseDistribution] = {}
        for trial in trials:
            for name, distribution in trial.distributions.items():
                n_with[name] = n_with.get(name, 0) + 1
                self._distributions[name] = distribution
        # What decides about a parameter has been suggested wherever it has.
        self._names = sorted(n_with, key=lambda name: (-n_with[name], name))
        always = [name for name in self._names if n_with[name] == len(trials)]
        self._trees: dict[str, tuple[list[str], DecisionTreeClassifier]] = {}
        for position, name in enumerate(self._names):
            if name in always:
                continue
            deciders = self._names[:position]
            rows = np.concatenate([self._row(trial.params, deciders) for trial in trials], axis=0)
            there = np.array([name in trial.params for trial in trials])
            tree = DecisionTreeClassifier(random_state=0).fit(rows, there)
            self._trees[name] = deciders, tree

    def taken(self, params: Mapping[str, Any]) -> list[str]:
        """The names of ``params`` that a trial with these values will have; unknown ones stay."""
        kept = {name: value for name, value in params.items() if name not in self._trees}
        for name in self._names:
            if name in self._trees and name in params:
                deciders, tree = self._trees[name]
                if bool(tree.predict(self._row(kept, deciders))[0]):
                    kept[name] = params[name]
        return [name for name in params if name in kept]

    def _row(self, params: Mapping[str, Any], names: Sequence[str]) -> FloatArray:
        """Parameters as numbers, categories one-hot: ``(1, d)``."""
        columns: list[float] = [0.0]
        for name in names:
            distribution = self._distributions[name]
            try:
                internal = float(distribution.to_internal_repr(params[name]))
            except (KeyError, TypeError, ValueError):  # not there, or of another space
                internal = _ABSENT
            if isinstance(distribution, CategoricalDistribution):
                columns += [float(internal == c) for c in range(len(distribution.choices))]
            else:
                columns.append(internal)
        return np.array([columns])


def untried_trial(
    params: Mapping[str, Any], space: Mapping[str, BaseDistribution], branches: Branches | None
) -> FrozenTrial:
    """What would be known of a candidate as a trial, with the parameters that it would have."""
    taken = list(params) if branches is None else branches.taken(params)
    return create_trial(
        state=TrialState.RUNNING,
        params={name: params[name] for name in taken},
        distributions={name: space[name] for name in taken},
    )


def widened(
    space: Mapping[str, BaseDistribution], trials: Sequence[FrozenTrial]
) -> dict[str, BaseDistribution]:
    """A space with every range as wide as some trials had it: it may differ between branches."""
    wide = dict(space)
    for trial in trials:
        for name in wide.keys() & trial.distributions.keys():
            other: Any = trial.distributions[name]
            own: Any = wide[name]
            if other == own or isinstance(own, CategoricalDistribution):
                continue
            kinds = [(type(d), d.log, d.step) for d in (own, other)]
            # A grid that begins elsewhere has other points.
            if kinds[0] == kinds[1] and (own.step in (None, 1) or own.low == other.low):
                own = copy.copy(own)
                own.low, own.high = min(own.low, other.low), max(own.high, other.high)
                wide[name] = own
    return wide


def searched_space(study: Study) -> dict[str, BaseDistribution]:
    """The last distribution of each parameter, without those whose kind has changed."""
    space: dict[str, BaseDistribution] = {}
    changed: set[str] = set()
    for trial in every_trial(study, (TrialState.COMPLETE, TrialState.PRUNED)):
        for name, distribution in trial.distributions.items():
            known = space.get(name, distribution)
            # Categorical choices cannot change within a study; kinds of numbers can.
            if type(known) is not type(distribution):
                changed.add(name)
            space[name] = distribution
    return {
        name: distribution
        for name, distribution in sorted(space.items())
        if name not in changed and not distribution.single()
    }
