"""What other modules call of the compiled code."""

import numpy as np

from optuna_aelle.lyapunov.compiled.basics import ROWS
from optuna_aelle.lyapunov.compiled.jacobians import DENSE
from optuna_aelle.lyapunov.compiled.jacobians import LSTM
from optuna_aelle.lyapunov.compiled.jacobians import MIXED
from optuna_aelle.lyapunov.compiled.jacobians import STAGED
from optuna_aelle.lyapunov.compiled.kernels import add_log_volumes
from optuna_aelle.lyapunov.compiled.kernels import carry
from optuna_aelle.lyapunov.compiled.lanes import carry_lanes
from optuna_aelle.lyapunov.compiled.states import run_gru
from optuna_aelle.lyapunov.compiled.states import run_lstm
from optuna_aelle.lyapunov.compiled.states import run_vanilla
from optuna_aelle.lyapunov.compiled.states import sum_of_logs
from optuna_aelle.lyapunov.compiled.tiles import LANES


def carry_once() -> None:
    """The smallest run: what cannot be compiled or called shows here."""
    frames = np.zeros((1, ROWS, LANES))
    frames[0, 0, 0] = 1.0
    sums = np.zeros((1, 1))
    ones = np.ones((1, 1, 1, 1))
    orders = np.zeros((1, 1), np.int64)
    carry(MIXED, ones, ones, (0, 1), frames, orders, False, 1, 1, sums)
    carry_lanes(ones, ones, (0, 1), frames, 1, 1, sums)
    add_log_volumes(frames, (0, 1), 1, 1, sums)
    sum_of_logs(ones[0, 0], sums[0])
    weights, states = np.zeros((1, 1, LANES)), np.zeros((9, 2, 1, 1))
    run_vanilla(weights, ones[0], False, states[0], *np.zeros((2, 1, 1, 1)))
    wide = np.zeros((1, 1, 4))
    run_gru(weights, np.ones((1, 3)), wide, states[0], wide, *np.zeros((6, 1, 1, 1)))
    run_lstm(weights, wide, *states[:3], wide, *np.zeros((5, 1, 1, 1)), states[3])
    if sums[0, 0] != 0.0:
        raise RuntimeError(f"Expected ln 1 = 0 of the compiled code, got {sums[0, 0]}")


__all__ = [
    "DENSE",
    "LANES",
    "LSTM",
    "MIXED",
    "ROWS",
    "STAGED",
    "add_log_volumes",
    "carry",
    "carry_lanes",
    "carry_once",
    "run_gru",
    "run_lstm",
    "run_vanilla",
    "sum_of_logs",
]
