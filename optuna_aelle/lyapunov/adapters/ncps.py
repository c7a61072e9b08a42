"""Package ncps: closed-form and liquid time-constant cells, which read their own state.

All run as they do without ``timespans``, one unit of time a step.

Source: Hasani et al., "Liquid Time-constant Networks" (arXiv 2006.04439); "Closed-form Continuous-
time Neural Models" (arXiv 2106.13898), equation 10.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from optuna_aelle.lyapunov.custom import StepModel
from optuna_aelle.lyapunov.custom import from_step

_ELAPSED = 1.0


def cfc_cell(module: Any) -> StepModel:
    """Of ``CfCCell``, called with ``(B, D)`` at each step.

    Example:
        >>> from ncps.torch import CfCCell  # doctest: +SKIP
        >>> cfc_cell(CfCCell(3, 8)).state_size  # doctest: +SKIP
        8
    """
    return from_step(_step_of(module), module.hidden_size, input_size=module.input_size)


def wired_cell(module: Any) -> StepModel:
    """Of ``LTCCell`` or ``WiredCfCCell``, called with ``(B, D)`` at each step.

    Example:
        >>> from ncps.torch import LTCCell  # doctest: +SKIP
        >>> from ncps.wirings import FullyConnected  # doctest: +SKIP
        >>> wired_cell(LTCCell(FullyConnected(8), 3)).state_size  # doctest: +SKIP
        8
    """
    return from_step(_step_of(module), module.state_size, input_size=module.sensory_size)


def layer(module: Any) -> StepModel:
    """Of ``CfC`` or ``LTC``; with mixed memory the state is (h, c), an LSTM's before the cell.

    Example:
        >>> from ncps.torch import CfC  # doctest: +SKIP
        >>> layer(CfC(3, 8, mixed_memory=True)).state_size  # doctest: +SKIP
        16
    """
    step, size = _step_of(module.rnn_cell), module.state_size
    settings = {"input_size": module.input_size, "batch_first": module.batch_first}
    if not module.use_mixed:
        return from_step(step, size, **settings)

    def mixed(x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = module.lstm(x, state)
        return step(x, h), c

    return from_step(mixed, (size, size), **settings)


def _step_of(cell: Any) -> Any:
    # A copy in training mode would drop units of the backbone.
    cell.eval()

    def step(x: Tensor, h: Tensor) -> Tensor:
        after: Tensor = cell(x, h, _ELAPSED)[1]
        return after

    return step
