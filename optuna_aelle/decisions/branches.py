"""Which parameters a configuration will have, where a search space has branches.

Optuna's samplers may draw the parameters of all branches at once; which of them a trial will
suggest is decided in the user's objective. The trials that have run show it: whether a parameter
is there is learned from the parameters that are more common, by a decision tree.
"""

from __future__ import annotations

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
