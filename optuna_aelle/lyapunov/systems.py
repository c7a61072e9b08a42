"""Maps whose Lyapunov spectra are known, to check an engine with.

Each function returns a `KnownSystem`: pass ``system.model`` and ``system.inputs(T, B)`` (and
``system.initial_state(B)``) to `lyapunov_spectrum` and compare with ``system.exponents``.

Notation: T steps, B sequences, D inputs, N state size; exponents in nats per step, descending.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from optuna_aelle.lyapunov.custom import StepModel
from optuna_aelle.lyapunov.custom import from_step

# In a quarter of a second, the leading exponent of the published case comes out within 0.001.
_HENON_ORBITS = 64
_HENON_STEPS = 20_000
# Steps that are not averaged: near a bifurcation a periodic orbit is approached slowly.
_HENON_SETTLING = 2_000
# Bounded orbits stay within R = (1 + |b| + √((1 + |b|)² + 4a)) / 2a (Devaney and Nitecki, 1979),
# which is far below; those that leave square their distance at each step.
_HENON_ESCAPED = 1e6


@dataclass(frozen=True, eq=False)
class KnownSystem:
    """A map, what drives it, where it starts, and its spectrum.

    Attributes:
        name: As in the literature.
        model: What `lyapunov_spectrum` takes.
        exponents: ``(N,)``, nats per step, descending.
        exact: Whether ``exponents`` is an analytic value (else a numerical one, see ``source``).
        source: Where ``exponents`` comes from.
        start: ``(1, N)`` float64, in the basin of attraction.
        drive: What drives the map for T steps, ``(T, D)``; None if nothing does.

    Example:
        >>> system = logistic()
        >>> system.inputs(100, batch=2).shape, system.initial_state(2).shape
        (torch.Size([100, 2, 0]), torch.Size([2, 1]))
    """

    name: str
    model: StepModel
    exponents: npt.NDArray[np.float64]
    exact: bool
    source: str
    start: Tensor
    drive: Callable[[int], Tensor] | None = None

    def inputs(self, n_steps: int, batch: int = 1) -> Tensor:
        """What drives the map for ``n_steps`` steps: ``(T, B, D)`` float64."""
        if self.drive is None:
            return torch.zeros(n_steps, batch, 0, dtype=torch.float64)
        return self.drive(n_steps)[:, None, :].expand(-1, batch, -1)

    def initial_state(self, batch: int = 1) -> Tensor:
        """Points of the basin of attraction, each a little different: ``(B, N)`` float64."""
        shift = torch.linspace(0.0, 0.01, batch, dtype=torch.float64)[:, None]
        return self.start * (1.0 + shift)


def henon(a: float = 1.4, b: float = 0.3) -> KnownSystem:
    """The Hénon map x' = 1 − a x² + y, y' = b x; its exponents always add up to ln|b|.

    For a = 1.4, b = 0.3 they are published ones. For other parameters they are computed here, in
    scalar arithmetic apart from the engine, along the orbits of ``start``.

    Raises:
        ValueError: ``b`` is 0, or the orbits leave for infinity: there is no attractor, or none
            that ``start`` reaches.

    Example:
        >>> henon().exponents.round(3)
        array([ 0.419, -1.623])
        >>> bool(henon(a=1.0).exponents[0] < 0.0)  # a periodic orbit
        True
    """
    if not (math.isfinite(a) and math.isfinite(b) and b != 0.0):
        raise ValueError(
            f"a and b must be finite, and b not 0 (the map would forget y at once), but got "
            f"a = {a} and b = {b}."
        )

    def step(_: Tensor, h: Tensor) -> Tensor:
        x, y = h[:, 0], h[:, 1]
        return torch.stack([1.0 - a * x * x + y, b * x], dim=1)

    start = torch.tensor([[0.1, 0.1]], dtype=torch.float64)
    if (a, b) == (1.4, 0.3):
        largest = 0.41922
        source = "Sprott, Chaos and Time-Series Analysis (2003), table A.2 (a = 1.4, b = 0.3)"
    else:
        largest = _largest_henon_exponent(a, b, *start[0].tolist())
        source = (
            f"computed (a = {a}, b = {b}): ln|J v| averaged over {_HENON_STEPS} steps of "
            f"{_HENON_ORBITS} orbits, Benettin et al., Meccanica 15 (1980)"
        )
    return KnownSystem(
        name="Hénon map",
        model=from_step(step, 2),
        exponents=np.array([largest, math.log(abs(b)) - largest]),
        exact=False,
        source=source,
        start=start,
    )


def _largest_henon_exponent(a: float, b: float, x0: float, y0: float) -> float:
    """By the growth of one tangent vector along each of several orbits."""
    shift = 1.0 + np.linspace(0.0, 0.01, _HENON_ORBITS)
    x, y = x0 * shift, y0 * shift
    u, v = np.full_like(x, math.sqrt(0.5)), np.full_like(x, math.sqrt(0.5))
    total = 0.0
    for step in range(_HENON_SETTLING + _HENON_STEPS):
        u, v = v - 2.0 * a * x * u, b * u
        x, y = 1.0 - a * x * x + y, b * x
        size = np.hypot(u, v)
        u, v = u / size, v / size
        if step >= _HENON_SETTLING:
            total += float(np.log(size).mean())
        if np.abs(x).max() > _HENON_ESCAPED:
            raise ValueError(
                f"Expected parameters for which the Hénon map stays bounded from "
                f"({x0:g}, {y0:g}), but with a = {a} and b = {b} it leaves for infinity after "
                f"{step + 1} steps. Take a and b nearer to 1.4 and 0.3."
            )
    # Where both exponents are equal, the finite average may fall below the half of their sum.
    return max(total / _HENON_STEPS, 0.5 * math.log(abs(b)))


def logistic() -> KnownSystem:
    """The logistic map at r = 4, whose exponent is exactly ln 2.

    Example:
        >>> logistic().exponents.round(4)
        array([0.6931])
    """

    def step(_: Tensor, h: Tensor) -> Tensor:
        return 4.0 * h * (1.0 - h)

    return KnownSystem(
        name="logistic map, r = 4",
        model=from_step(step, 1),
        exponents=np.array([math.log(2.0)]),
        exact=True,
        source="Ott, Chaos in Dynamical Systems (2002), section 2.1",
        start=torch.tensor([[0.3]], dtype=torch.float64),
    )


def lorenz(dt: float = 0.01) -> KnownSystem:
    """The Lorenz system (σ = 10, ρ = 28, β = 8/3), one Runge–Kutta step of ``dt`` a step.

    Example:
        >>> (lorenz(dt=0.01).exponents / 0.01).round(4)  # nats per unit of time
        array([  0.9056,   0.    , -14.5723])
    """

    def velocity(h: Tensor) -> Tensor:
        x, y, z = h.unbind(dim=1)
        return torch.stack([10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z], dim=1)

    def step(_: Tensor, h: Tensor) -> Tensor:
        k1 = velocity(h)
        k2 = velocity(h + 0.5 * dt * k1)
        k3 = velocity(h + 0.5 * dt * k2)
        k4 = velocity(h + dt * k3)
        return h + dt / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)

    return KnownSystem(
        name="Lorenz system",
        model=from_step(step, 3),
        exponents=dt * np.array([0.9056, 0.0, -14.5723]),
        exact=False,
        source="Sprott, Chaos and Time-Series Analysis (2003), table A.3",
        start=torch.tensor([[1.0, 1.0, 20.0]], dtype=torch.float64),
    )


def periodic_linear(matrices: Sequence[npt.ArrayLike]) -> KnownSystem:
    """h' = A_{t mod P} h: exponents are ln|eigenvalues of A_P ... A_1| / P, in that order of time.

    Unequal, non-symmetric matrices tell the product A_P ... A_1 from A_1 ... A_P transposed step
    by step, which Hénon's map and symmetric weights cannot.

    Args:
        matrices: A_1, ..., A_P: ``(P, N, N)``.

    Example:
        >>> periodic_linear([[[2.0, 0.0], [0.0, 0.5]]]).exponents.round(4)
        array([ 0.6931, -0.6931])
    """
    stack = torch.as_tensor(np.asarray(matrices, dtype=np.float64))
    if stack.dim() != 3 or stack.shape[1] != stack.shape[2]:
        raise ValueError(f"Expected square matrices (P, N, N), got shape {tuple(stack.shape)}.")
    period, size = stack.shape[:2]
    product = torch.linalg.multi_dot(list(stack.flip(0))) if period > 1 else stack[0]
    exponents = np.log(np.abs(np.linalg.eigvals(product.numpy()))) / period

    def step(x: Tensor, h: Tensor) -> Tensor:
        return torch.einsum("bp,pij,bj->bi", x, stack, h)

    def drive(n_steps: int) -> Tensor:
        phase = torch.arange(n_steps) % period
        return torch.nn.functional.one_hot(phase, period).double()

    return KnownSystem(
        name=f"linear map of period {period}",
        model=from_step(step, size, input_size=period),
        exponents=-np.sort(-exponents),
        exact=True,
        source="Floquet: eigenvalues of the product over one period",
        start=torch.zeros(1, size, dtype=torch.float64),
        drive=drive,
    )
