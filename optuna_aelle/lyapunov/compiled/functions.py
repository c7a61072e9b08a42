"""What other modules call of the compiled code."""

from optuna_aelle.lyapunov.compiled.basics import ROWS
from optuna_aelle.lyapunov.compiled.jacobians import DENSE
from optuna_aelle.lyapunov.compiled.jacobians import LSTM
from optuna_aelle.lyapunov.compiled.jacobians import MIXED
from optuna_aelle.lyapunov.compiled.jacobians import STAGED
from optuna_aelle.lyapunov.compiled.kernels import add_log_volumes
from optuna_aelle.lyapunov.compiled.kernels import carry
from optuna_aelle.lyapunov.compiled.states import run_gru
from optuna_aelle.lyapunov.compiled.states import run_lstm
from optuna_aelle.lyapunov.compiled.states import run_vanilla
from optuna_aelle.lyapunov.compiled.tiles import LANES

__all__ = [
    "DENSE",
    "LANES",
    "LSTM",
    "MIXED",
    "ROWS",
    "STAGED",
    "add_log_volumes",
    "carry",
    "run_gru",
    "run_lstm",
    "run_vanilla",
]
