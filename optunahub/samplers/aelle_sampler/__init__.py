from optuna_aelle import AeLLESampler


__all__ = ["AeLLESampler"]
