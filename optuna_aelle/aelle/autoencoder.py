"""An ensemble of small spectrum autoencoders, trained together as stacked weights.

Notation: M members, n spectra, k points of a spectrum, h hidden units, d latent coordinates.
Everything here is standardised: spectra ``x (n, k)``, scores ``y (M, n)``, and visibility ``seen
(M, n)``, which is 1 where member m may learn from the score of row n and 0 elsewhere.

Each member is x -> tanh -> z -> tanh -> x' with a linear read-out of the score from the latent z.
It is trained from the start on both tasks, L1 reconstruction + alpha * squared error of the score,
and alpha rises in steps. Training is float32, the trained weights are applied in float64: only
then is the prediction of a row the same to the last digits whichever rows stand beside it.

Source: Vogt, Zheng and Shlizerman, arXiv 2204.04876.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

FloatArray = npt.NDArray[np.float64]
Weights = dict[str, FloatArray]

# Weight of the score against the reconstruction, one entry per quarter of the training; the
# schedule of arXiv 2204.04876.
ALPHAS = (5.0, 5.0, 10.0, 20.0)
# Predicts as well as full batches and costs a third of them at 100 networks of three spectra.
BATCH_ROWS = 64

# Adam's means of gradient and square. In some sixty steps, 0.999 would still weigh the first ones.
_BETA1 = 0.9
_BETA2 = 0.99
_EPSILON = 1e-8
# Of the steps: until the squares mean something, full steps would go astray; longer, few are left.
_WARMUP_SHARE = 0.1


def parameter_shapes(members: int, k: int, hidden: int, latent: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each stacked parameter; a weight maps its second axis to its third.

    Example:
        >>> parameter_shapes(members=2, k=32, hidden=16, latent=8)["encode_in"]
        (2, 32, 16)
    """
    return {
        "encode_in": (members, k, hidden),
        "encode_in_bias": (members, 1, hidden),
        "encode_out": (members, hidden, latent),
        "encode_out_bias": (members, 1, latent),
        "decode_in": (members, latent, hidden),
        "decode_in_bias": (members, 1, hidden),
        "decode_out": (members, hidden, k),
        "decode_out_bias": (members, 1, k),
        "score": (members, latent, 1),
        "score_bias": (members, 1, 1),
    }


def train(
    x: FloatArray,
    y: FloatArray,
    seen: FloatArray,
    *,
    hidden: int,
    latent: int,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    noise: float,
    seed: int,
) -> Weights:
    """Train all members side by side and return their weights, float64.

    The members share no parameter and no statistic, so a score that one of them may not see cannot
    reach it through another. Their number of steps is fixed for the same reason.

    Args:
        x: Standardised spectra, shape ``(n, k)``.
        y: Standardised scores of each member, shape ``(M, n)``, finite; used where ``seen`` is 1.
        seen: Shape ``(M, n)``; each member sees at least one score.
        hidden: Hidden units h of encoder and decoder.
        latent: Latent coordinates d.
        steps: Adam steps, each over at most ``BATCH_ROWS`` rows.
        learning_rate: Peak of the schedule: linear warm-up, then a half cosine to zero.
        weight_decay: Decoupled from the gradient (Loshchilov and Hutter, arXiv 1711.05101); biases
            are spared.
        noise: Standard deviation of the Gaussian noise that each step adds to the input, but not
            to the reconstruction's target (Vincent et al., ICML 2008).
        seed: Of a generator of its own; torch's global random state is left alone.

    Example:
        >>> x, y = np.random.randn(20, 32), np.random.randn(2, 20)
        >>> weights = train(x, y, np.ones((2, 20)), hidden=16, latent=8, steps=10,
        ...     learning_rate=0.04, weight_decay=2.0, noise=0.3, seed=0)
        >>> weights["score"].shape
        (2, 8, 1)
    """
    # In a thread of its own PyTorch sets its count at its first question or operation: before the
    # limit below, so that it neither overrides it nor is overridden by what is restored after it.
    torch.get_num_threads()
    members = len(y)
    shapes = parameter_shapes(members, x.shape[1], hidden, latent)
    # Products this small lose by threads, up to fiftyfold where other processes share the cores;
    # OpenMP's limit holds for the calling thread alone, unlike torch.set_num_threads.
    pools = ThreadpoolController().select(user_api="openmp")
    with pools.limit(limits=1), torch.no_grad():
        generator = torch.Generator(device="cpu").manual_seed(seed)
        inputs, targets, weights = (
            torch.tensor(array, dtype=torch.float32, device="cpu") for array in (x, y, seen)
        )
        weights = weights / weights.mean(dim=1, keepdim=True)
        flat, decay = _initialise(shapes, generator)
        gradient = torch.zeros_like(flat)
        p, g = _unpack(flat, shapes), _unpack(gradient, shapes)
        first, second = torch.zeros_like(flat), torch.zeros_like(flat)
        batches = _batches(len(inputs), generator)
        for step in range(1, steps + 1):
            rows = next(batches)
            clean = inputs[rows]
            noisy = torch.empty_like(clean).normal_(0.0, noise, generator=generator).add_(clean)
            alpha = ALPHAS[(step - 1) * len(ALPHAS) // steps]
            _set_gradient(p, g, noisy, clean, targets[:, rows], weights[:, rows], alpha)
            # Adam by hand on one flat vector: torch.optim would import the compiler (a second or
            # more) and visit each parameter in Python.
            rate = learning_rate * _schedule(step / steps)
            first.lerp_(gradient, 1.0 - _BETA1)
            second.lerp_(gradient.square(), 1.0 - _BETA2)
            spread = (second / (1.0 - _BETA2**step)).sqrt_().add_(_EPSILON)
            flat.mul_(1.0 - rate * weight_decay * decay)
            flat.addcdiv_(first, spread, value=-rate / (1.0 - _BETA1**step))
        trained = _unpack(flat.double(), shapes)
        return {name: value.numpy().copy() for name, value in trained.items()}


def encode(weights: Mapping[str, FloatArray], x: FloatArray) -> FloatArray:
    """Return the latents of every member, shape ``(M, n, d)``, of standardised spectra (n, k).

    Example:
        >>> shapes = parameter_shapes(members=2, k=32, hidden=16, latent=8)
        >>> weights = {name: np.zeros(shape) for name, shape in shapes.items()}
        >>> encode(weights, np.zeros((5, 32))).shape
        (2, 5, 8)
    """
    hidden = np.tanh(x @ weights["encode_in"] + weights["encode_in_bias"])
    return np.asarray(hidden @ weights["encode_out"] + weights["encode_out_bias"])


def decode(weights: Mapping[str, FloatArray], z: FloatArray) -> FloatArray:
    """Return the standardised spectra ``(M, n, k)`` of latents ``(M, n, d)`` or ``(n, d)``.

    Example:
        >>> shapes = parameter_shapes(members=2, k=32, hidden=16, latent=8)
        >>> weights = {name: np.zeros(shape) for name, shape in shapes.items()}
        >>> decode(weights, np.zeros((5, 8))).shape
        (2, 5, 32)
    """
    hidden = np.tanh(z @ weights["decode_in"] + weights["decode_in_bias"])
    return np.asarray(hidden @ weights["decode_out"] + weights["decode_out_bias"])


def read_out(weights: Mapping[str, FloatArray], z: FloatArray) -> FloatArray:
    """Return the standardised scores ``(M, n)`` that members read from latents ``(M, n, d)``.

    Example:
        >>> shapes = parameter_shapes(members=2, k=32, hidden=16, latent=8)
        >>> weights = {name: np.zeros(shape) for name, shape in shapes.items()}
        >>> read_out(weights, np.zeros((2, 5, 8))).shape
        (2, 5)
    """
    return np.asarray((z @ weights["score"] + weights["score_bias"])[..., 0])


def _initialise(
    shapes: Mapping[str, tuple[int, ...]], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return all parameters as one vector, and 1 where a parameter decays."""
    values, decays = [], []
    for name, shape in shapes.items():
        value = torch.zeros(shape, dtype=torch.float32, device="cpu")
        is_weight = not name.endswith("bias")
        if is_weight:
            value.normal_(0.0, shape[1] ** -0.5, generator=generator)
        values.append(value.flatten())
        decays.append(torch.full_like(values[-1], float(is_weight)))
    return torch.cat(values), torch.cat(decays)


def _unpack(flat: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    pieces = torch.split(flat, [math.prod(shape) for shape in shapes.values()])
    return {
        name: piece.view(shape)
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }


def _set_gradient(
    p: Mapping[str, Tensor],
    g: Mapping[str, Tensor],
    noisy: Tensor,
    clean: Tensor,
    targets: Tensor,
    weights: Tensor,
    alpha: float,
) -> None:
    """Write the gradient of mean |x' - x| + alpha * mean weight * (score - y)^2 into ``g``.

    By hand, since recording so small a graph costs three times as much as running it.

    Args:
        p: Parameters.
        g: Where their gradients go.
        noisy: What the members are shown, ``(rows, k)``.
        clean: What they are to give back, ``(rows, k)``.
        targets: Scores, ``(M, rows)``.
        weights: Of the scores, ``(M, rows)``.
        alpha: Weight of the scores against the reconstruction.
    """
    x = noisy.expand(len(targets), -1, -1)
    encoded = torch.baddbmm(p["encode_in_bias"], x, p["encode_in"]).tanh_()
    latent = torch.baddbmm(p["encode_out_bias"], encoded, p["encode_out"])
    decoded = torch.baddbmm(p["decode_in_bias"], latent, p["decode_in"]).tanh_()
    spectra = torch.baddbmm(p["decode_out_bias"], decoded, p["decode_out"])
    scores = torch.baddbmm(p["score_bias"], latent, p["score"])[..., 0]

    def layer(name: str, below: Tensor, error: Tensor) -> Tensor:
        torch.bmm(below.mT, error, out=g[name])
        torch.sum(error, dim=1, keepdim=True, out=g[f"{name}_bias"])
        return torch.bmm(error, p[name].mT)

    error = (spectra - clean).sign_().div_(clean.numel())
    error = layer("decode_out", decoded, error) * (1.0 - decoded.square())
    error = layer("decode_in", latent, error)
    miss = (scores - targets).mul_(weights).mul_(2.0 * alpha / len(clean))
    error += layer("score", latent, miss[..., None])
    error = layer("encode_out", encoded, error) * (1.0 - encoded.square())
    layer("encode_in", x, error)


def _batches(n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield row numbers for ever; each pass over the rows is shuffled and evenly cut."""
    count = math.ceil(n / BATCH_ROWS)
    while True:
        order = torch.randperm(n, generator=generator, device="cpu")
        for start in range(count):
            yield order[start::count]


def _schedule(progress: float) -> float:
    if progress < _WARMUP_SHARE:
        return progress / _WARMUP_SHARE
    done = (progress - _WARMUP_SHARE) / (1.0 - _WARMUP_SHARE)
    return 0.5 * (1.0 + math.cos(math.pi * done))
