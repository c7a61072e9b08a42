"""Package minGRU-pytorch: layers whose gates read the input alone.

Source: Feng, Tung, Ahmed, Bengio and Hajimirsadeghi, "Were RNNs All We Needed?" (arXiv
2410.01201), sections 3.1 and 3.2.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from optuna_aelle.lyapunov.custom import DiagonalModel
from optuna_aelle.lyapunov.custom import from_log_rates


def gru(module: Any) -> DiagonalModel:
    """Of ``minGRU``, called with ``(B, T, D)``: ln(1 − z), ``(T, B, H)``, in nats per step.

    Example:
        >>> from minGRU_pytorch.minGRU import minGRU  # doctest: +SKIP
        >>> gru(minGRU(8)).state_size  # doctest: +SKIP
        8
    """
    project = module.to_hidden_and_gate

    def log_rates(inputs: Tensor) -> Tensor:
        return F.logsigmoid(-project(inputs).chunk(2, dim=-1)[1])

    return _of(log_rates, project, n_gates=2)


def lstm(module: Any) -> DiagonalModel:
    """Of ``minLSTM``, called with ``(B, T, D)``: ln(f / (f + i)), ``(T, B, H)``, nats per step.

    Example:
        >>> from minGRU_pytorch.minLSTM import minLSTM  # doctest: +SKIP
        >>> lstm(minLSTM(8)).state_size  # doctest: +SKIP
        8
    """
    project = module.to_hidden_and_f_i_gate

    def log_rates(inputs: Tensor) -> Tensor:
        _, y_f, y_i = project(inputs).chunk(3, dim=-1)
        return F.logsigmoid(F.logsigmoid(y_f) - F.logsigmoid(y_i))

    return _of(log_rates, project, n_gates=3)


def _of(log_rates: Any, project: Any, n_gates: int) -> DiagonalModel:
    return from_log_rates(
        log_rates,
        project.out_features // n_gates,
        input_size=project.in_features,
        batch_first=True,
        by_steps=True,
    )
