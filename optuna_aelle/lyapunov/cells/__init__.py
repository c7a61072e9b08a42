"""Recurrent networks that `torch.nn` lacks, with known long-term dynamics, ready to train.

Each is one layer with the interface of `torch.nn.RNN`: inputs ``(T, B, D)``, ``(B, T, D)`` if
``batch_first``, or ``(T, D)``; it returns the outputs of all steps and the final state with a
leading axis of length 1. Where the state has two parts (y, z), so has the final state.

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
from optuna_aelle.lyapunov.cells.exponential import ExponentialRNN
from optuna_aelle.lyapunov.cells.exponential import orthogonal_matrix
from optuna_aelle.lyapunov.cells.layer import RecurrentLayer
from optuna_aelle.lyapunov.cells.lem import LEM
from optuna_aelle.lyapunov.cells.lipschitz import LipschitzRNN
from optuna_aelle.lyapunov.cells.lipschitz import lipschitz_matrix

__all__ = [
    "AntisymmetricRNN",
    "CoRNN",
    "ExponentialRNN",
    "LEM",
    "LipschitzRNN",
    "RecurrentLayer",
    "antisymmetric_matrix",
    "lipschitz_matrix",
    "orthogonal_matrix",
]
