"""Systems whose J is diagonal: no tangent vector turns, and logarithms are summed."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

import torch
from torch import Tensor

from optuna_aelle.lyapunov.carriers import Carrier
from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import State
from optuna_aelle.lyapunov.maps.base import Trajectory
from optuna_aelle.lyapunov.spectrum import Computation

LogRates = Callable[[Tensor], Tensor]


class DiagonalMap(RecurrentMap):
    """ln|J| at each step, made of the inputs alone; one network at a time.

    In the place of the state it has the input, since nothing depends on the state.

    Args:
        log_rates: From inputs ``(T, B, D)`` to ``(T or 1, B or 1, n)``.
        n_rates: n.
        n_real: Numbers of the state that each of them stands for.
        input_size: D.
        by_steps: Whether a step's rates need that step's input alone.
        dtype: Of the inputs that ``log_rates`` is given.
        device: Where to compute.

    Example:
        >>> half = torch.tensor([[[0.5, 0.25]]]).double().log()
        >>> layer = DiagonalMap(lambda x: half, 2, 1, 3, True, torch.float64, torch.device("cpu"))
        >>> layer.state_size
        2
    """

    def __init__(
        self,
        log_rates: LogRates,
        n_rates: int,
        n_real: int,
        input_size: int,
        by_steps: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.by_steps = by_steps
        self._log_rates = log_rates
        self.n_rates, self.n_real = n_rates, n_real
        self.part_sizes = (n_rates * n_real,)
        self._input_size = input_size
        self.dtype = dtype
        self.device = device

    def use_frame_dtype(self, dtype: torch.dtype) -> None:
        """There is no frame."""

    def drive(self, inputs: Tensor) -> Tensor:
        return inputs

    def initial_state(self, n_models: int, batch: int, given: State | None) -> State:
        shape = (n_models, batch, self._input_size)
        return (torch.zeros(shape, dtype=self.dtype, device=self.device),)

    def step(self, drive: Tensor, state: State) -> tuple[State, State]:
        return (drive,), (self._of(drive[None])[0],)

    def unroll(self, drive: Tensor, state: State) -> Trajectory:
        before = torch.cat([state[0][None], drive[:-1]])
        return Trajectory((self._of(drive),), (before,), (drive,))

    def linearize(self, trajectory: Trajectory) -> State:
        return trajectory.kept

    def tangent(self, coefficients: State, frame: Tensor) -> Tensor:
        diagonal = coefficients[0].exp().repeat_interleave(self.n_real, dim=-1)
        return frame * diagonal[:, None, :]

    def _of(self, drive: Tensor) -> Tensor:
        n_steps, n_models, batch, _ = drive.shape
        found = self._log_rates(drive[:, 0])
        if not isinstance(found, Tensor) or found.dim() != 3 or found.shape[2] != self.n_rates:
            came = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"Expected log_rates to return ln|J| of shape (T, B, {self.n_rates}) for inputs "
                f"of shape {tuple(drive[:, 0].shape)}, got {came}."
            )
        if bool(torch.isnan(found).any()) or bool(torch.isposinf(found).any()):
            raise FloatingPointError(
                "Expected finite log rates or −inf, got NaN or infinite ones. Check log_rates, or "
                "the weights of the module."
            )
        # What is the same at all steps is kept once.
        return found.detach()[:, None].expand(n_steps, n_models, batch, self.n_rates)


class DiagonalCarrier(Carrier):
    """Sums of ln|J|.

    Example:
        >>> half = torch.tensor([[[0.5, 0.25]]]).double().log()
        >>> layer = DiagonalMap(lambda x: half, 2, 1, 3, True, torch.float64, torch.device("cpu"))
        >>> carrier = DiagonalCarrier(layer, n_systems=4)
        >>> start = layer.initial_state(1, 4, None)
        >>> trajectory = layer.unroll(torch.zeros(10, 1, 4, 3).double(), start)
        >>> carrier.carry(carrier.prepare(trajectory))
        >>> carrier.sums[0].div(10).exp()
        tensor([0.5000, 0.2500], dtype=torch.float64)
    """

    def __init__(self, layer: DiagonalMap, n_systems: int) -> None:
        self._layer = layer
        size = layer.state_size
        self.sums = torch.zeros(n_systems, size, dtype=torch.float64, device=layer.device)

    @property
    def computation(self) -> Computation:
        return Computation("sum", "float64", 1.0, 0, compiled=False)

    def prepare(self, trajectory: Trajectory) -> list[Tensor]:
        return [self._layer.linearize(trajectory)[0].flatten(1, 2)]

    def carry(self, coefficients: Sequence[Tensor]) -> None:
        (rates,) = coefficients
        constant = rates.stride(0) == 0
        added = rates[0].double() * len(rates) if constant else rates.double().sum(dim=0)
        self.sums += added.repeat_interleave(self._layer.n_real, dim=-1)

    def log_volume(self, state: State) -> Tensor:
        return torch.zeros_like(self.sums)
