"""Recurrent networks that `torch.nn` lacks, with known long-term dynamics, ready to train.

Each is one layer with the interface of `torch.nn.RNN`: inputs ``(T, B, D)``, ``(B, T, D)`` if
``batch_first``, or ``(T, D)``; it returns the outputs of all steps and the final state with a
leading axis of length 1. Where the state has two parts (y, z), so has the final state.

Those whose state goes on number by number (`DiagonalLayer`) run all steps at once.

Notation: x (B, D) input, h (B, H) state, h' the next state.

Example:
    >>> import torch
    >>> network = CoRNN(1, 64, batch_first=True)
    >>> outputs, (y, z) = network(torch.randn(8, 100, 1))
    >>> outputs.shape, y.shape
    (torch.Size([8, 100, 64]), torch.Size([1, 8, 64]))
"""

from optuna_aelle.lyapunov.cells.antisymmetric import AntisymmetricRNN
from optuna_aelle.lyapunov.cells.antisymmetric import antisymmetric_matrix
from optuna_aelle.lyapunov.cells.cornn import CoRNN
from optuna_aelle.lyapunov.cells.diagonal import DiagonalLayer
from optuna_aelle.lyapunov.cells.diagonal import linear_scan
from optuna_aelle.lyapunov.cells.exponential import ExponentialRNN
from optuna_aelle.lyapunov.cells.exponential import orthogonal_matrix
from optuna_aelle.lyapunov.cells.layer import RecurrentLayer
from optuna_aelle.lyapunov.cells.lem import LEM
from optuna_aelle.lyapunov.cells.lipschitz import LipschitzRNN
from optuna_aelle.lyapunov.cells.lipschitz import lipschitz_matrix
from optuna_aelle.lyapunov.cells.minimal import MinGRU
from optuna_aelle.lyapunov.cells.minimal import MinLSTM
from optuna_aelle.lyapunov.cells.rwkv import RWKV4
from optuna_aelle.lyapunov.cells.rwkv import RWKV6
from optuna_aelle.lyapunov.cells.state_spaces import LRU
from optuna_aelle.lyapunov.cells.state_spaces import S4D
from optuna_aelle.lyapunov.cells.state_spaces import S5
from optuna_aelle.lyapunov.cells.state_spaces import S6
from optuna_aelle.lyapunov.cells.xlstm import MLSTM
from optuna_aelle.lyapunov.cells.xlstm import SLSTM

__all__ = [
    "AntisymmetricRNN",
    "CoRNN",
    "DiagonalLayer",
    "ExponentialRNN",
    "LEM",
    "LRU",
    "LipschitzRNN",
    "MLSTM",
    "MinGRU",
    "MinLSTM",
    "RWKV4",
    "RWKV6",
    "RecurrentLayer",
    "S4D",
    "S5",
    "S6",
    "SLSTM",
    "antisymmetric_matrix",
    "linear_scan",
    "lipschitz_matrix",
    "orthogonal_matrix",
]
