"""Groups of trials on the latent map, and their names: which cell, which size, what score."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.prediction.knobs import knob_of
from optuna_aelle.trials.attributes import spectrum_payloads
from optuna_aelle.visualization._style import escaped
from optuna_aelle.visualization._trials import value_of

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

_MOST_CLUSTERS = 5
# A group is told apart where it has so many trials, and lies so far from the next one.
_LEAST_MEMBERS = 4
_LEAST_SILHOUETTE = 0.45
_N_ROUNDS = 50
# What so many of a group have in common is its name.
_MAJORITY = 0.6


@dataclass(frozen=True)
class Cluster:
    """Trials that lie together.

    Attributes:
        name: What they have in common.
        center: ``(2,)`` the middle of the points.
        members: Positions of the trials.
    """

    name: str
    center: tuple[float, float]
    members: tuple[int, ...]


def clusters_of(points: FloatArray, trials: Sequence[FrozenTrial]) -> list[Cluster]:
    """Find groups among ``points (n, 2)`` and name them; none where the points form one cloud."""
    found = _groups(points)
    if found is None:
        return []
    groups = [np.flatnonzero(found == k) for k in range(int(found.max()) + 1)]
    names = [_name([trials[int(i)] for i in group], trials) for group in groups]
    return [
        Cluster(
            name,
            (float(np.median(points[group, 0])), float(np.median(points[group, 1]))),
            tuple(map(int, group)),
        )
        for name, group in zip(names, groups, strict=True)
    ]


def _groups(points: FloatArray) -> IntArray | None:
    """The group of each point ``(n,)``, by k-means with the k of the best silhouette."""
    scale = points.std(axis=0).max()
    if len(points) < 2 * _LEAST_MEMBERS or not scale > 0.0:
        return None
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    best, best_score = None, _LEAST_SILHOUETTE
    for k in range(2, _MOST_CLUSTERS + 1):
        groups = _k_means(points, distances, k)
        sizes = np.bincount(groups, minlength=k)
        if sizes.min() < _LEAST_MEMBERS:
            continue
        score = _silhouette(distances, groups)
        if score > best_score:
            best, best_score = groups, score
    return best


def _k_means(points: FloatArray, distances: FloatArray, k: int) -> IntArray:
    """Lloyd's rounds from points that lie far apart: nothing is drawn."""
    chosen = [int(np.argmin(distances.sum(axis=1)))]
    while len(chosen) < k:
        chosen.append(int(np.argmax(distances[chosen].min(axis=0))))
    centers = points[chosen]
    groups = np.full(len(points), -1)
    for _ in range(_N_ROUNDS):
        new = np.linalg.norm(points[:, None] - centers[None], axis=-1).argmin(axis=1)
        if (new == groups).all():
            break
        groups = new
        for i in range(k):
            if (groups == i).any():
                centers[i] = points[groups == i].mean(axis=0)
    return groups


def _silhouette(distances: FloatArray, groups: IntArray) -> float:
    """Mean of (b − a) / max(a, b): a within a point's group, b to the next one.

    Source: Rousseeuw, Journal of Computational and Applied Mathematics 20 (1987), 53–65.
    """
    k = int(groups.max()) + 1
    sums = np.stack([distances[:, groups == i].sum(axis=1) for i in range(k)], axis=1)
    sizes = np.bincount(groups, minlength=k)
    own = np.arange(len(groups)), groups
    within = sums[own] / np.maximum(sizes[groups] - 1, 1)
    means = sums / sizes
    means[own] = np.inf
    other = means.min(axis=1)
    return float(((other - within) / np.maximum(np.maximum(other, within), 1e-12)).mean())


def _name(members: Sequence[FrozenTrial], everyone: Sequence[FrozenTrial]) -> str:
    parts = [part for part in (_choice(members, everyone), _size(members)) if part]
    finals = [value_of(t) for t in members if t.state == TrialState.COMPLETE]
    known = [value for value in finals if math.isfinite(value)]
    parts.append(f"{np.median(known):.3g}" if known else "none finished")
    return ", ".join(parts)


def _choice(members: Sequence[FrozenTrial], everyone: Sequence[FrozenTrial]) -> str:
    """The choice that tells a group from all others: the cell, where cells are searched."""
    names = {
        name
        for trial in members
        for name, distribution in trial.distributions.items()
        if isinstance(distribution, CategoricalDistribution) and len(distribution.choices) > 1
    }
    best, most = "", 0.0
    for name in sorted(names):
        (choice, n), *_ = Counter(
            str(t.params[name]) for t in members if name in t.params
        ).most_common()
        share = n / len(members)
        overall = sum(str(t.params.get(name)) == choice for t in everyone) / len(everyone)
        is_cell = knob_of(name) == "cell"
        if is_cell and share < _MAJORITY:
            # No one cell: the two that most have.
            common = Counter(str(t.params.get(name)) for t in members).most_common(2)
            choice, share = "/".join(sorted(cell for cell, _ in common)), 1.0
        told = (share - overall) + is_cell
        if share >= _MAJORITY and told > max(most, 0.1):
            best = choice if is_cell else f"{name} {choice}"
            most = told
    return escaped(best, 24)


def _size(members: Sequence[FrozenTrial]) -> str:
    """The middle half of the sizes of the networks' states."""
    sizes = [payload["n"] for t in members for payload in list(spectrum_payloads(t).values())[-1:]]
    if not sizes:
        return ""
    low, high = np.percentile(sizes, [25, 75]).round().astype(int)
    return f"N {low}" if low == high else f"N {low}–{high}"
