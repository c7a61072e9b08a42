from optuna_aelle import AeLLEPruner
from optuna_aelle import should_prune


__all__ = ["AeLLEPruner", "should_prune"]
