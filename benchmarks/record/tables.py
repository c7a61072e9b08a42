"""Which tables are there, and which of them may a design look at? By name, ``task-cell``."""

from __future__ import annotations

# One kind of space, 200 configurations of 27 epochs each: what pruners are replayed on.
FIRST_DEVELOPMENT_TABLES = (
    "digits-rnn",
    "digits-mixed",
    "adding-lstm",
    "adding-mixed",
    "lorenz-gru",
)
FIRST_REPORT_TABLES = (
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
)
# Designs are settled on the development tables, results are reported on the others: no task is in
# both.
DEVELOPMENT_TABLES = (
    *FIRST_DEVELOPMENT_TABLES,
    "teacher-rnn",
    "parity-mixed",
    "parity-relu",
    "maps-gru",
    "power-rnn",
    "counting-antisymmetric",
    "pendulum-lstm",
    "matching-mixed",
    "teacher-minlstm",
    "counting-mingru",
    "maps-cornn",
    "pendulum-mixed",
)
REPORT_TABLES = (
    *FIRST_REPORT_TABLES,
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
    "modular-gru",
    "laser-mixed",
    "oscillator-lem",
    "brackets-lstm",
)
