"""Which tables are there, and which of them may a design look at? By name, ``task-cell``."""

from __future__ import annotations

# Designs are settled on the first, results are reported on the second: no task is in both.
DEVELOPMENT_TABLES = (
    "digits-rnn",
    "digits-mixed",
    "adding-lstm",
    "adding-mixed",
    "lorenz-gru",
    "teacher-rnn",
    "parity-mixed",
    "parity-relu",
    "maps-gru",
    "power-rnn",
    "counting-antisymmetric",
    "pendulum-lstm",
    "matching-mixed",
    "teacher-minlstm",
)
REPORT_TABLES = (
    "fashion-gru",
    "fashion-mixed",
    "vowels-mixed",
    "osuleaf-antisymmetric",
    "charlm-lstm",
    "charlm-mixed",
    "recall-rnn",
    "recall-mixed",
    "copying-lem",
    "copying-mixed",
    "sines-rnn",
    "sines-mixed",
    "narma-mixed",
    "association-mixed",
    "modular-mixed",
    "laser-rnn",
    "motions-mixed",
    "oscillator-lipschitz",
    "integration-mixed",
    "brackets-mixed",
    "mnist1d-mixed",
    "bible-mingru",
    "narma-relu",
    "sorting-gru",
    "sorting-mixed",
    "bible-mixed",
)
