"""What one recurrent layer does to its state and to tangent vectors.

Notation: T steps, M equal networks, B sequences each, hence S = M B systems that run side by side;
x (M, B, D) an input, h (M, B, H) a hidden state, N the size of the whole state of a layer. A
*frame* is a tensor (S, k, N): k tangent vectors for each system. Row-major (S, k, N) is LAPACK's
column-major (N, k), so renormalising a frame needs no transposition.

The state runs in float64; a frame may be narrower. Derivatives of saturating functions are written
in terms of e^(−|y|), because 1 − tanh² cancels to zero where the tail of the spectrum still lives.
"""

from __future__ import annotations

import math
from abc import ABC
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch import nn

StateKind = Literal["full", "hidden"]
State = tuple[Tensor, ...]

_LN2 = math.log(2.0)


def tanh_derivative(y: Tensor) -> Tensor:
    """sech²(y) without cancellation.

    Example:
        >>> tanh_derivative(torch.tensor([0.0, 30.0]))
        tensor([1.0000e+00, 3.5026e-26])
    """
    decay = torch.exp(-2.0 * y.abs())
    return 4.0 * decay / (1.0 + decay).square()


def log_tanh_derivative(y: Tensor) -> Tensor:
    """ln sech²(y), finite even where sech² underflows.

    Example:
        >>> log_tanh_derivative(torch.tensor([0.0, 300.0]))
        tensor([   0.0000, -598.6137])
    """
    size = y.abs()
    return 2.0 * (_LN2 - size - torch.log1p(torch.exp(-2.0 * size)))


def sigmoid_derivative(y: Tensor) -> Tensor:
    """σ(y)σ(−y): exact in both tails.

    Example:
        >>> sigmoid_derivative(torch.tensor([0.0, 30.0]))
        tensor([2.5000e-01, 9.3576e-14])
    """
    return torch.sigmoid(y) * torch.sigmoid(-y)


class Parameters:
    """The parameters of M equal modules, stacked: ``(M, ...)``, float64, a copy.

    Args:
        modules: Modules of one type and size.
        device: Where the computation runs.
        suffix: Appended to each name: ``"_l0"`` for the first layer of a `torch.nn.LSTM`.

    Example:
        >>> parameters = Parameters([nn.GRU(3, 4), nn.GRU(3, 4)], torch.device("cpu"), "_l0")
        >>> parameters["weight_hh"].shape
        torch.Size([2, 12, 4])
    """

    def __init__(
        self, modules: Sequence[nn.Module], device: torch.device, suffix: str = ""
    ) -> None:
        self.modules = modules
        self.device = device
        self.suffix = suffix

    @property
    def first(self) -> nn.Module:
        """Any one of the modules, for what they have in common."""
        return self.modules[0]

    def __getitem__(self, name: str) -> Tensor:
        # getattr, so that parametrized weights (spectral norm, orthogonal) are read as they act.
        return torch.stack([self.prepare(getattr(m, name + self.suffix)) for m in self.modules])

    def get(self, name: str) -> Tensor | None:
        """As ``[name]``, or None where the modules lack it."""
        return self[name] if getattr(self.first, name + self.suffix, None) is not None else None

    def prepare(self, parameter: Tensor) -> Tensor:
        return parameter.detach().to(self.device).double()


class Trajectory(NamedTuple):
    """A stretch of T steps: what the derivatives need, ``(T, M, B, ·)`` each.

    Attributes:
        kept: What `RecurrentMap.step` kept of each step, pre-activations as a rule.
        before: The state before each step.
        after: The state after each step.
        derivatives: What `RecurrentMap.linearize` makes Jacobians of, where it is known already.

    Example:
        >>> step = (torch.zeros(5, 1, 2, 4),)
        >>> len(Trajectory(kept=step, before=step, after=step).after[0])
        5
    """

    kept: State
    before: State
    after: State
    derivatives: State = ()


class RecurrentMap(ABC):
    """One layer as a map of its state, and the derivative J of that map.

    A subclass gives one `step`, turns a whole stretch of steps into the coefficients of their
    Jacobians at once (`linearize`), and carries a frame through one J (`tangent`): only what is
    truly sequential is computed step by step. `to_working` and `from_working` change to
    coordinates in which J is better conditioned; they have determinant 1.

    Attributes:
        part_sizes: The sizes of the tensors that an initial state consists of: (H, H) for an LSTM.
        narrow_share: The leading share of the exponents for which a float32 frame is accurate
            enough, unless it underflows.
        dense_state_size: Up to which size of the state compiled code is faster even though all J
            have to be formed for it.
        dtype: Dtype of the state.

    Example:
        >>> from optuna_aelle.lyapunov.maps.mixed import VanillaMap
        >>> layer = VanillaMap(Parameters([nn.RNN(3, 4)], torch.device("cpu"), "_l0"))
        >>> drive = layer.drive(torch.zeros(5, 1, 2, 3).double())
        >>> trajectory = layer.unroll(drive, layer.initial_state(1, 2, None))
        >>> coefficients = [c.flatten(1, 2)[0] for c in layer.linearize(trajectory)]  # of one step
        >>> layer.tangent(tuple(coefficients), torch.eye(4).double().repeat(2, 1, 1)).shape
        torch.Size([2, 4, 4])
    """

    part_sizes: tuple[int, ...]
    narrow_share: float = 1.0
    dense_state_size: int = 48
    dtype: torch.dtype = torch.float64
    device: torch.device

    @property
    def state_size(self) -> int:
        """N."""
        return sum(self.part_sizes)

    @abstractmethod
    def use_frame_dtype(self, dtype: torch.dtype) -> None:
        """Keep the weights that `tangent` needs in the dtype of the frame."""

    def scratch(self, *shape: int, like: Tensor) -> Tensor:
        """Memory of this shape for use within one `tangent`: the same at each call.

        It stays where it is as long as the map lives: recorded CUDA graphs write to it.
        """
        memories: dict[object, Tensor] = self.__dict__.setdefault("_memories", {})
        key = (shape, like.dtype)
        if key not in memories:
            memories[key] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return memories[key]

    @abstractmethod
    def drive(self, inputs: Tensor) -> Tensor:
        """The inputs' share of the pre-activations: ``(T, M, B, D) -> (T, M, B, G)``."""

    def initial_state(self, n_models: int, batch: int, given: State | None) -> State:
        """The zero state, or ``given``, one ``(B, ·)`` for each of `part_sizes`."""
        shape = (n_models, batch)
        if given is None:
            return tuple(
                torch.zeros(*shape, size, dtype=self.dtype, device=self.device)
                for size in self.part_sizes
            )
        return tuple(part.to(self.dtype).expand(*shape, -1) for part in given)

    @abstractmethod
    def step(self, drive: Tensor, state: State) -> tuple[State, State]:
        """One step: ``drive (M, B, G)`` and a state to the next state and what is to be kept."""

    def visible(self, state: State) -> Tensor:
        """What the next layer reads of a state."""
        return state[0]

    def unroll(self, drive: Tensor, state: State) -> Trajectory:
        """Run along ``drive (T, M, B, G)``."""
        states, kept = [state], []
        for x in drive:
            state, of_step = self.step(x, state)
            states.append(state)
            kept.append(of_step)
        stacked = [torch.stack(part) for part in zip(*states, strict=True)]
        return Trajectory(
            kept=tuple(torch.stack(part) for part in zip(*kept, strict=True)),
            before=tuple(part[:-1] for part in stacked),
            after=tuple(part[1:] for part in stacked),
        )

    def _places(self, drive: Tensor, state: State) -> State:
        """Memory for the states of a trajectory, ``(T + 1, M, B, ·)``, the first one filled in."""
        places = tuple(part.new_empty(len(drive) + 1, *part.shape) for part in state)
        for place, part in zip(places, state, strict=True):
            place[0] = part
        return places

    @abstractmethod
    def linearize(self, trajectory: Trajectory) -> State:
        """The coefficients of J at each step, ``(T, M, B, ·)`` each."""

    @abstractmethod
    def tangent(self, coefficients: State, frame: Tensor) -> Tensor:
        """J times every tangent vector of ``frame (S, k, N)``; coefficients ``(S, ·)``."""

    def log_abs_det(self, trajectory: Trajectory) -> Tensor | None:
        """ln|det J|, ``(T, M, B)``, where a closed form exists, independent of `tangent`."""
        return None

    def to_working(self, state: State, frame: Tensor) -> Tensor:
        return frame

    def from_working(self, state: State, frame: Tensor) -> Tensor:
        return frame

    def compact(self) -> tuple[Literal["mixed", "lstm"], Sequence[Tensor]] | None:
        """How compiled code makes J of the coefficients, and Uᵀ ``(M, H, H)`` of each gate.

        ``"mixed"`` as in `maps.mixed.MixedMap`, ``"lstm"`` as in `maps.lstm.LSTMMap`; None if
        it is to be given whole.
        """
        return None

    def jacobians_t(self, coefficients: Sequence[Tensor], n_models: int) -> Tensor:
        """Jᵀ ``(T, S, N, N)`` from coefficients ``(T, S, ·)``: what becomes of unit vectors."""
        n_steps, n_systems = coefficients[0].shape[:2]
        # The systems of a model side by side, as `tangent` expects them.
        by_model = [
            c.view(n_steps, n_models, -1, c.shape[-1]).transpose(0, 1).flatten(0, 2)
            for c in (c.contiguous() for c in coefficients)
        ]
        eye = torch.eye(self.state_size, dtype=torch.float64, device=self.device)
        carried = self.tangent(tuple(by_model), eye.expand(n_steps * n_systems, -1, -1))
        return carried.view(n_models, n_steps, -1, *eye.shape).transpose(0, 1).flatten(1, 2)


class DenseJacobian(RecurrentMap):
    """A map whose J costs little to form.

    Example:
        >>> from optuna_aelle.lyapunov.maps.mixed import VanillaMap
        >>> layer = VanillaMap(Parameters([nn.RNN(3, 4)], torch.device("cpu"), "_l0"))
        >>> isinstance(layer, DenseJacobian), layer.jacobian_t((torch.ones(2, 4).double(),)).shape
        (True, torch.Size([2, 4, 4]))
    """

    @abstractmethod
    def jacobian_t(self, coefficients: State) -> Tensor:
        """Jᵀ ``(S, N, N)``; may be overwritten by the next call."""


class StagedTangent(RecurrentMap):
    """A map whose J is a product of factors that are better conditioned.

    A sum of terms of very different size, as where a forget gate is shut, keeps the large one
    only. Done in stages, with the frame renormalised in between, nothing is lost.

    Example:
        >>> from optuna_aelle.lyapunov.maps.lstm import LSTMMap
        >>> layer = LSTMMap(Parameters([nn.LSTM(3, 4)], torch.device("cpu"), "_l0"))
        >>> drive = layer.drive(torch.zeros(5, 1, 2, 3).double())
        >>> trajectory = layer.unroll(drive, layer.initial_state(1, 2, None))
        >>> layer.delicate(trajectory) is None  # no forget gate is shut
        True
    """

    @abstractmethod
    def delicate(self, trajectory: Trajectory) -> State | None:
        """Coefficients for `delicate_tangent`, if `tangent` would lose directions; else None."""

    @abstractmethod
    def delicate_tangent(self, coefficients: State, frame: Tensor) -> tuple[Tensor, Tensor]:
        """As `tangent`, in stages: the renormalised frame and its growth ``(S, k)``."""


def log_det_of(matrices: Tensor) -> Tensor:
    """ln|det| of ``matrices (M, N, N)``, ``(M, 1)``.

    Example:
        >>> log_det_of(torch.eye(3).double()[None])
        tensor([[0.]], dtype=torch.float64)
    """
    if matrices.device.type == "cpu":
        # Of small ones, half the time that PyTorch takes.
        return torch.from_numpy(np.atleast_1d(np.linalg.slogdet(matrices.numpy())[1]))[:, None]
    log_det: Tensor = torch.linalg.slogdet(matrices).logabsdet
    return log_det[:, None]


def along_systems(tensor: Tensor) -> npt.NDArray[np.float64]:
    """``(T, M, B, ·)`` as an array ``(T, M B, ·)``; the same memory if that is contiguous.

    Example:
        >>> along_systems(torch.zeros(5, 2, 3, 4)).shape
        (5, 6, 4)
    """
    array: npt.NDArray[np.float64] = tensor.contiguous().flatten(1, 2).numpy()
    return array


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``inputs (T, M or 1, B, D)`` by each model's own ``weight (M, G, D)``, plus ``bias (M, G)``.

    One large product a model: ``(T, M, B, G)``.

    Example:
        >>> linear(torch.zeros(5, 1, 2, 3), torch.zeros(4, 6, 3)).shape  # four models
        torch.Size([5, 4, 2, 6])
    """
    n_steps, _, batch, size = inputs.shape
    rows = inputs.transpose(0, 1).expand(len(weight), -1, -1, -1)
    rows = rows.reshape(len(weight), n_steps * batch, size)
    if bias is None:
        product = torch.bmm(rows, weight.mT)
    else:
        product = torch.baddbmm(bias[:, None], rows, weight.mT)
    return product.view(len(weight), n_steps, batch, -1).transpose(0, 1)


def by_weight(frame: Tensor, weight_t: Tensor) -> Tensor:
    """``frame (S, k, N)`` by each model's own ``weight_t (M, N, H)``, as M large products.

    Example:
        >>> by_weight(torch.zeros(8, 2, 3), torch.zeros(4, 3, 6)).shape  # four models
        torch.Size([8, 2, 6])
    """
    size, k, width = frame.shape
    return (frame.reshape(len(weight_t), -1, width) @ weight_t).view(size, k, -1)
