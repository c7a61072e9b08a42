"""How the network of a prior is trained: over the studies of many tasks, at all their moments.

Every trial is a row at each moment at which it has a spectrum, among all trials of its study and
among few of them. Groups of columns are left out at random, so that the network speaks without
spectra, without any knob that it knows, and without a curve. In half of the rows the place of
their study among all is known, in half it is not: the former teach in which ways studies differ.

Notation: R rows of N columns, standings y (R,), M members, d ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.nn import functional as F

from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.prediction.curves import is_lesson
from optuna_aelle.prediction.curves import reports
from optuna_aelle.prediction.curves import standings
from optuna_aelle.prediction.forecast import CENTRAL_80
from optuna_aelle.prediction.knobs import NUMBERS
from optuna_aelle.prediction.network import LARGEST_LOG_SPREAD
from optuna_aelle.prediction.network import LEAST_LOG_SPREAD
from optuna_aelle.prediction.network import PLAIN
from optuna_aelle.prediction.network import StandingNetwork
from optuna_aelle.prediction.traits import COLUMNS
from optuna_aelle.prediction.traits import LEAST_POPULATION
from optuna_aelle.prediction.traits import N_COLUMNS
from optuna_aelle.prediction.traits import Population
from optuna_aelle.prediction.traits import Traits
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.table import RecordedTrials

FloatArray = npt.NDArray[np.float64]

# Moments of a training, in reports; where it has as many.
_MOMENTS = (1, 2, 3, 5, 8, 13, 21, 34, 55)
# Of the rows of a batch, the share of untrained networks: the moment that counts most.
_UNTRAINED_SHARE = 0.35
# A small population of a table is at most this large.
_LARGEST_FEW = 80
# Of the rows of a batch, the share of which the place of their study is known.
_PLACED_SHARE = 0.5
# A study's place is held near the middle as if one of so many trials said so.
_TRIALS_OF_A_STUDY = 200
# How often a group of columns is left out.
_LEFT_OUT: dict[tuple[str, ...], float] = {
    ("knobs",): 0.15,
    ("untrained", "latest"): 0.12,
    ("curve",): 0.12,
}


@dataclass(frozen=True)
class Settings:
    """Of the network and its training (`benchmarks.train_prior` says what they were chosen by)."""

    members: int = 8
    hidden: int = 64
    encoder_hidden: int = 48
    latent: int = 8
    steps: int = 4000
    batch: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    dropout: float = 0.1
    noise: float = 0.1
    reconstruction: float = 0.3
    ways: int = 6
    folds: int = 4
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Lessons:
    """What one study teaches.

    Attributes:
        columns: ``(R, N)``.
        standings: ``(R,)``.
        weights: ``(R,)`` how far each standing is known.
        untrained: ``(R,)`` whether a row is of an untrained network.
    """

    columns: npt.NDArray[np.float32]
    standings: FloatArray
    weights: FloatArray
    untrained: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls, table: RecordedTrials, knobs: Mapping[str, str] | None = None, seed: int = 0
    ) -> Lessons:
        """All moments of all trials of a table."""
        sign = 1.0 if table.direction == "maximize" else -1.0
        trials = [trial for trial in table.trials if is_lesson(trial)]
        places, doubt = standings(trials, sign)
        rng = np.random.default_rng(seed)
        curves = [sign * np.asarray(reports(t), dtype=np.float64) for t in trials]
        length = max(map(len, curves))
        parts, ys, weights, untrained = [], [], [], []
        steps = table.steps
        for moment in (0, *_MOMENTS):
            if moment >= min(length, len(steps)):
                break
            step = steps[moment - 1] if moment else UNTRAINED_STEP
            there = [i for i, curve in enumerate(curves) if len(curve) >= moment]
            if len(there) < LEAST_POPULATION:
                continue
            traits = Traits.read([trials[i] for i in there], step, sign, knobs)
            few = int(np.exp(rng.uniform(np.log(LEAST_POPULATION), np.log(_LARGEST_FEW))))
            chosen = rng.permutation(len(there))[: min(few, len(there))]
            for rows in (np.arange(len(there)), chosen):
                population = Population(
                    traits.relative[rows], [curves[there[i]] for i in rows], length
                )
                parts.append(traits.among(population).astype(np.float32))
                ys.append(places[there])
                weights.append(1.0 - doubt[there])
                untrained.append(np.full(len(there), moment == 0))
        return cls(*(np.concatenate(x) for x in (parts, ys, weights, untrained)))


def train_network(
    lessons: Mapping[str, Sequence[Lessons]],
    settings: Settings | None = None,
    *,
    progress: Callable[[], object] | None = None,
) -> StandingNetwork:
    """Train on the lessons of tasks.

    How far intervals must be stretched is measured on tasks that were left out, in turn.

    Args:
        lessons: Of each task the lessons of its studies.
        settings: Those of the network.
        progress: Called after every step of the training.
    """
    settings = settings or Settings()
    names = sorted(lessons)
    stretch = np.ones(2)
    folds = min(settings.folds, len(names))
    if folds > 1:
        order = np.random.default_rng(settings.seed).permutation(len(names))
        distances: list[list[FloatArray]] = [[], []]
        small = replace(
            settings, members=min(2, settings.members), steps=max(settings.steps // 2, 2)
        )
        for fold in range(folds):
            held_out = {names[i] for i in order[fold::folds]}
            network = _train([x for n in names if n not in held_out for x in lessons[n]], small)
            for name in held_out:
                for one in lessons[name]:
                    mean, std = network.predict(one.columns.astype(np.float64))
                    distance = np.abs(one.standings - mean) / std
                    known = one.weights > 0.5
                    for phase, rows in enumerate((one.untrained, ~one.untrained)):
                        distances[phase].append(distance[rows & known])
        for phase, parts in enumerate(distances):
            joined = np.concatenate(parts)
            if len(joined):
                stretch[phase] = np.quantile(joined, 0.8) / CENTRAL_80
    every = [x for name in names for x in lessons[name]]
    network = _train(every, settings, progress)
    return replace(network, stretch=stretch)


def _train(
    lessons: Sequence[Lessons],
    settings: Settings,
    progress: Callable[[], object] | None = None,
) -> StandingNetwork:
    columns = np.concatenate([x.columns for x in lessons])
    with np.errstate(invalid="ignore"):
        known = ~np.isnan(columns)
        count = np.maximum(known.sum(axis=0), 1)
        center = np.where(known, columns, 0.0).sum(axis=0) / count
        spread = np.sqrt(np.where(known, (columns - center) ** 2, 0.0).sum(axis=0) / count)
    optional = ~known.all(axis=0)
    # What no study lacks is left out at random all the same: of each group one mark tells.
    optional[[group.start for group in COLUMNS.values()]] = True
    center = center.astype(np.float64)
    scale = np.where(spread > 1e-6, spread, 1.0).astype(np.float64)
    numbers = slice(COLUMNS["knobs"].start, COLUMNS["knobs"].start + len(NUMBERS))
    there = np.where(known[:, numbers], (columns - center)[:, numbers] / scale[numbers], 0.0)
    network = StandingNetwork(
        weights={},
        center=center,
        scale=scale,
        optional=optional,
        reach=np.stack([there.min(axis=0), there.max(axis=0)]),
        stretch=np.ones(2),
    )
    y = torch.tensor(np.concatenate([x.standings for x in lessons]), dtype=torch.float32)
    weights = torch.tensor(np.concatenate([x.weights for x in lessons]), dtype=torch.float32)
    untrained = np.concatenate([x.untrained for x in lessons])
    studies = torch.arange(len(lessons)).repeat_interleave(
        torch.tensor([len(x.standings) for x in lessons])
    )
    rows = _Rows(network, columns)
    before, after = (torch.tensor(np.flatnonzero(x)) for x in (untrained, ~untrained))
    if not len(after):
        after = before
    n_before = int(settings.batch * _UNTRAINED_SHARE)
    members = settings.members
    # In a thread of its own PyTorch sets its count at its first question: before the limit below.
    torch.get_num_threads()
    pools = ThreadpoolController().select(user_api="openmp")
    # Dropout draws from the global state of torch: a caller's stays as it was.
    with pools.limit(limits=1), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(settings.seed)
        parameters = _initialise(rows.n_inputs, len(lessons), settings)
        optimizer = torch.optim.AdamW(
            parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=settings.steps
        )
        for _ in range(settings.steps):
            chosen = torch.cat(
                [
                    before[torch.randint(len(before), (members, n_before))],
                    after[torch.randint(len(after), (members, settings.batch - n_before))],
                ],
                dim=1,
            )
            drawn = rows.draw(chosen, settings.noise)
            loss = _loss(parameters, drawn, settings, y[chosen], weights[chosen], studies[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress()
        _rescale_ways(parameters)
    trained = {
        name: value.detach().numpy()
        for name, value in parameters.items()
        if not name.startswith("decode") and name != "places"
    }
    return replace(network, weights=trained)


class _Rows:
    """Standardised rows, of which groups of columns can be left out."""

    def __init__(self, network: StandingNetwork, columns: npt.NDArray[np.float32]) -> None:
        # Piecewise: twice the rows in double precision would not fit small machines.
        spectra, plain = [], []
        for part in np.array_split(columns, max(len(columns) // 20000, 1)):
            own, others = network.inputs(part.astype(np.float64))
            spectra.append(np.stack(own))
            plain.append(others)
        self._spectra = torch.from_numpy(np.concatenate(spectra, axis=1))
        self._plain = torch.from_numpy(np.concatenate(plain))
        self.n_inputs = self._plain.shape[1]
        at = {int(column): place for place, column in enumerate(PLAIN)}
        told = {int(c): len(PLAIN) + i for i, c in enumerate(np.flatnonzero(network.optional))}
        self._groups: list[tuple[bool, float, Tensor, Tensor]] = []
        for names, share in _LEFT_OUT.items():
            own_columns = [c for name in names for c in range(N_COLUMNS)[COLUMNS[name]]]
            places = [at[c] for c in own_columns if c in at]
            marks = [told[c] for c in own_columns if c in told]
            self._groups.append(
                ("untrained" in names, share, torch.tensor(places), torch.tensor(marks))
            )

    def draw(self, chosen: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor]:
        """Fingerprints ``(2, M, B, k)`` without and with noise, and all others ``(M, B, _)``."""
        clean, plain = self._spectra[:, chosen], self._plain[chosen]
        noisy = clean + noise * torch.randn_like(clean)
        plain = plain + noise * torch.randn_like(plain)
        for spectral, share, places, marks in self._groups:
            gone = torch.rand(*chosen.shape, 1) < share
            plain[..., places] = torch.where(gone, 0.0, plain[..., places])
            plain[..., marks] = torch.where(gone, 1.0, plain[..., marks])
            if spectral:
                noisy = torch.where(gone, 0.0, noisy)
        return clean, noisy, plain


def _initialise(n_plain: int, n_studies: int, settings: Settings) -> dict[str, Tensor]:
    k, d = FINGERPRINT_LENGTH, settings.latent
    shapes = {
        "encode_in": (k, settings.encoder_hidden),
        "encode_out": (settings.encoder_hidden, d),
        "decode_in": (d, settings.encoder_hidden),
        "decode_out": (settings.encoder_hidden, k),
        "first": (n_plain + 3 * d, settings.hidden),
        "second": (settings.hidden, settings.hidden),
        # Mean, and logarithms of the spreads without and with the study's place.
        "last": (settings.hidden, 3),
        "ways": (settings.hidden, settings.ways),
    }
    places = 0.3 * torch.randn(settings.members, n_studies, settings.ways)
    parameters = {"places": places.requires_grad_()}
    for name, (n_in, n_out) in shapes.items():
        weight = torch.randn(settings.members, n_in, n_out) / math.sqrt(n_in)
        parameters[name] = weight.requires_grad_()
        parameters[f"{name}_bias"] = torch.zeros(settings.members, 1, n_out, requires_grad=True)
    return parameters


def _rescale_ways(parameters: dict[str, Tensor]) -> None:
    """Turn the ways so that the studies' places have unit spread in all directions."""
    with torch.no_grad():
        places = parameters["places"]
        moments = places.mT @ places / places.shape[1]
        variances, directions = torch.linalg.eigh(moments)
        root = directions * variances.clamp(min=0.0).sqrt()[:, None]
        for name in ("ways", "ways_bias"):
            parameters[name] = parameters[name] @ root


def _loss(
    parameters: Mapping[str, Tensor],
    drawn: tuple[Tensor, Tensor, Tensor],
    settings: Settings,
    y: Tensor,
    weights: Tensor,
    studies: Tensor,
) -> Tensor:
    """Negative log-likelihood of the standings plus L1 reconstruction of the fingerprints."""

    def layer(name: str, x: Tensor) -> Tensor:
        return x @ parameters[name] + parameters[f"{name}_bias"]

    clean, noisy, plain = drawn
    latents = torch.tanh(layer("encode_out", F.silu(layer("encode_in", noisy))))
    rebuilt = layer("decode_out", F.silu(layer("decode_in", latents)))
    x = torch.cat([plain, latents[0], latents[1], latents[1] - latents[0]], dim=2)
    for name in ("first", "second"):
        x = F.dropout(F.silu(layer(name, x)), settings.dropout)
    out = layer("last", x)
    places = parameters["places"]
    own = torch.gather(places, 1, studies[..., None].expand(*studies.shape, places.shape[2]))
    placed = torch.rand(y.shape) < _PLACED_SHARE
    mean = out[..., 0] + torch.where(placed, (layer("ways", x) * own).sum(dim=2), 0.0)
    log_spread = torch.where(placed, out[..., 2], out[..., 1])
    log_spread = log_spread.clamp(LEAST_LOG_SPREAD, LARGEST_LOG_SPREAD)
    misses = (y - mean) / log_spread.exp()
    likelihood = (weights * (log_spread + 0.5 * misses**2)).mean(dim=1).sum()
    held = 0.5 * (places**2).sum(dim=2).mean(dim=1).sum() / _TRIALS_OF_A_STUDY
    error = (rebuilt - clean).abs().mean() * len(plain) * 2
    return likelihood + held + settings.reconstruction * error
