"""The recurrences that a study may search: how each is built, and how it starts.

``init_gain`` scales what makes the Jacobian: the recurrent matrix; where gates read the input
alone, what they read it by. ``forget_bias`` is that of the gate that keeps the old state. A cell
that has neither, such as a state space whose rates are numbers of their own, is searched without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from torch import nn
from torch.nn import functional as F

from optuna_aelle.lyapunov import cells

# Steps that `Window` looks at, as the convolution in Mamba's block does.
_WINDOW = 4
# Of each channel of a state space: few, as sequences are short and a step costs H times as many.
_STATE_SIZE = 4
# Units of a head where the memory is a matrix.
_HEAD_SIZE = 8


class Gate(NamedTuple):
    """Which of a layer's biases ``forget_bias`` is: that of the gate that keeps the old state.

    Attributes:
        parameter: All biases, a block a gate.
        signs: Of each block: −1 for a gate that lets go what it opens for, 0 for another one.
    """

    parameter: str
    signs: tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """One kind of recurrent layer.

    Attributes:
        build: Makes a layer that is ``batch_first``, of n_inputs and hidden_size.
        gained: Names of the parameters that ``init_gain`` scales.
        forget: Where ``forget_bias`` goes; None for nowhere.
        own_start: Whether it starts as its paper has it, with time scales that are spread, instead
            of weights from N(0, 1 / fan-in) and biases of 0.
        in_block: Whether it needs something nonlinear before and after it (`before`, `after`).
    """

    build: Callable[[int, int], nn.Module]
    gained: tuple[str, ...] = ()
    forget: Gate | None = None
    own_start: bool = False
    in_block: bool = False

    def before(self, n_inputs: int, size: int) -> nn.Module:
        """What the layer reads instead of the inputs."""
        return Window(n_inputs, size) if self.in_block else nn.Identity()

    def after(self, size: int) -> nn.Module:
        """What is read of its outputs."""
        if not self.in_block:
            return nn.Identity()
        return nn.Sequential(nn.LayerNorm(size), nn.Linear(size, 2 * size), nn.GLU())


class Window(nn.Module):
    """SiLU of a linear map of each step and the three before it: ``(B, T, D)`` to ``(B, T, H)``.

    Gates that read the input alone would else see of a sequence one step at a time.
    """

    def __init__(self, n_inputs: int, size: int) -> None:
        super().__init__()
        self.mix = nn.Linear(_WINDOW * n_inputs, size)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, _WINDOW - 1, 0))
        return F.silu(self.mix(padded.unfold(1, _WINDOW, 1).flatten(2)))


def _layer(
    kind: type[nn.Module],
    *gained: str,
    forget: Gate | None = None,
    own_start: bool = False,
    **settings: float,
) -> Cell:
    return Cell(
        lambda d, h: kind(d, h, batch_first=True, **settings),
        gained,
        forget,
        own_start,
        in_block=issubclass(kind, cells.DiagonalLayer),
    )


def _by_heads(kind: type[nn.Module], *gained: str, forget: Gate | None = None) -> Cell:
    """``hidden_size`` is rounded up to whole heads."""

    def build(n_inputs: int, hidden_size: int) -> nn.Module:
        n_heads = -(-hidden_size // _HEAD_SIZE)
        return kind(n_inputs, n_heads * _HEAD_SIZE, n_heads=n_heads, batch_first=True)

    return Cell(build, gained, forget, own_start=True, in_block=True)


# For tens of steps, not hundreds, coRNN and Lipschitz RNN take larger steps than in their papers.
CELLS: dict[str, Cell] = {
    "rnn": _layer(nn.RNN, "weight_hh_l0"),
    "lstm": _layer(nn.LSTM, "weight_hh_l0", forget=Gate("bias_ih_l0", (0, 1, 0, 0))),
    # The update gate, which in torch keeps the old state where it is open.
    "gru": _layer(nn.GRU, "weight_hh_l0", forget=Gate("bias_ih_l0", (0, 1, 0))),
    "mingru": _layer(cells.MinGRU, "weight_ih", forget=Gate("bias", (-1, 0))),
    # What it keeps is the ratio of two gates; of opposite biases, it is σ of the former.
    "minlstm": _layer(cells.MinLSTM, "weight_ih", forget=Gate("bias", (1, -1, 0))),
    "lru": _layer(cells.LRU, own_start=True),
    "s4d": _layer(cells.S4D, own_start=True, state_size=_STATE_SIZE),
    "s5": _layer(cells.S5, own_start=True),
    "ssm": _layer(cells.S6, "dt.weight", own_start=True, state_size=_STATE_SIZE),
    "slstm": _layer(cells.SLSTM, "weight_hh", forget=Gate("bias", (0, 1, 0, 0))),
    "mlstm": _by_heads(cells.MLSTM, "gates.weight", forget=Gate("gates.bias", (0, 1))),
    "rwkv4": _layer(cells.RWKV4, own_start=True),
    "rwkv6": _by_heads(cells.RWKV6, "decay_out.weight"),
    "antisymmetric": _layer(cells.AntisymmetricRNN, "weight_hh"),
    "cornn": _layer(cells.CoRNN, "weight_hh", dt=0.1, epsilon=2.0),
    "lipschitz": _layer(cells.LipschitzRNN, "weight_linear", "weight_hh", epsilon=0.1),
    "lem": _layer(cells.LEM, "weight_hh", "weight_zy"),
    # Orthogonal whatever its weights.
    "exponential": _layer(cells.ExponentialRNN, own_start=True),
}
# What else they are called.
SYNONYMS = {"s6": "ssm"}
DEFAULT_CELLS = ("rnn", "lstm", "gru")
