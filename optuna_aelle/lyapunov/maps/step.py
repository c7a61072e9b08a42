"""Maps that are differentiated by `torch.func`: step functions, and stacks as one system."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

import torch
from torch import Tensor

from optuna_aelle.lyapunov.maps.base import RecurrentMap
from optuna_aelle.lyapunov.maps.base import State
from optuna_aelle.lyapunov.maps.base import Trajectory

StepFunction = Callable[[Tensor, Tensor], Tensor]

# Up to this size the dense Jacobians of a stretch are cheaper than one call per step.
_DENSE_STATE_SIZE = 64


class StepMap(RecurrentMap):
    """A step function ``(x (B, D), h (B, N)) -> h (B, N)``, one network at a time.

    Example:
        >>> layer = StepMap(lambda x, h: 0.5 * h, 2, torch.float64, torch.device("cpu"))
        >>> start = layer.initial_state(1, 1, None)
        >>> trajectory = layer.unroll(torch.zeros(3, 1, 1, 0).double(), start)
        >>> layer.linearize(trajectory)[0][0, 0, 0]
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]], dtype=torch.float64)
    """

    narrow_share = 0.0
    dense_state_size = _DENSE_STATE_SIZE

    def __init__(
        self, step: StepFunction, state_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._function = step
        self.part_sizes = (state_size,)
        self.dtype = dtype
        self.device = device

    def use_frame_dtype(self, dtype: torch.dtype) -> None:
        """The step function runs in its own dtype."""

    def drive(self, inputs: Tensor) -> Tensor:
        return inputs

    def step(self, drive: Tensor, state: State) -> tuple[State, State]:
        (h,) = state
        following = self._function(drive[0], h[0])
        if not isinstance(following, Tensor) or following.shape != h[0].shape:
            came = tuple(following.shape) if isinstance(following, Tensor) else type(following)
            raise ValueError(
                f"Expected the step function to return a state of shape {tuple(h[0].shape)}, got "
                f"{came}. It maps (x (B, D), h (B, N)) to the next h (B, N)."
            )
        return (following.detach()[None],), (drive,)

    def linearize(self, trajectory: Trajectory) -> State:
        (drive,), (before,) = trajectory.kept, trajectory.before
        if self.state_size > _DENSE_STATE_SIZE:
            return drive, before
        # One call for all steps: the Jacobians of T steps are those of a batch of T * B.
        shape = before.shape[:3]
        basis = torch.eye(self.state_size, dtype=self.dtype, device=before.device)
        h = before.flatten(0, 2)
        jacobian_t = self._push(drive.flatten(0, 2), h, basis.expand(len(h), -1, -1))
        return (jacobian_t.view(*shape, *jacobian_t.shape[1:]),)

    def jacobians_t(self, coefficients: Sequence[Tensor], n_models: int) -> Tensor:
        return coefficients[0]

    def tangent(self, coefficients: State, frame: Tensor) -> Tensor:
        if len(coefficients) == 1:
            return torch.bmm(frame, coefficients[0])
        drive, h = (part.to(self.dtype) for part in coefficients)
        return self._push(drive, h, frame.to(self.dtype)).to(frame.dtype)

    def _push(self, drive: Tensor, h: Tensor, frame: Tensor) -> Tensor:
        """J times every tangent vector of ``frame (S, k, N)``."""

        def along(direction: Tensor) -> Tensor:
            pushed: Tensor = torch.func.jvp(
                lambda state: self._function(drive, state), (h,), (direction,)
            )[1]
            return pushed

        result: Tensor = torch.func.vmap(along, in_dims=1, out_dims=1)(frame)
        return result.contiguous()


def coupled(layers: Sequence[RecurrentMap]) -> StepMap:
    """A stack as one system of all its layers' states, in their order.

    Example:
        >>> half = StepMap(lambda x, h: 0.5 * h + x, 2, torch.float64, torch.device("cpu"))
        >>> coupled([half, half]).state_size
        4
    """
    sizes = [size for layer in layers for size in layer.part_sizes]

    def step(x: Tensor, h: Tensor) -> Tensor:
        parts = list(torch.split(h, sizes, dim=-1))
        signal = x[None]
        following: list[Tensor] = []
        for layer in layers:
            given = tuple(parts.pop(0) for _ in layer.part_sizes)
            state = layer.initial_state(1, len(x), given)
            after, _ = layer.step(layer.drive(signal[None])[0], state)
            signal = layer.visible(after)
            following += after[: len(layer.part_sizes)]
        return torch.cat(following, dim=-1)[0]

    return StepMap(step, sum(sizes), layers[0].dtype, layers[0].device)
