"""What is recorded for each table: its space, how many configurations, and for how long.

The first tables share one kind of space. The later ones differ from them and from each other in
all that people's searches differ in: centres and widths of ranges, sizes, batch sizes, what is not
searched at all, the length of a training.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.record.spaces import Space
from benchmarks.record.spaces import first_space


@dataclass(frozen=True)
class Plan:
    """How a table is made.

    Attributes:
        task: A name in `TASKS`.
        cell: The second half of the table's name; ``"mixed"`` if the space has several cells.
        space: What is searched.
        n_configs: How many configurations are drawn.
        n_epochs: How long each is trained.
    """

    task: str
    cell: str
    space: Space
    n_configs: int = 200
    n_epochs: int = 27

    @property
    def name(self) -> str:
        """Of the table."""
        return f"{self.task}-{self.cell}"


def plan_of(table: str) -> Plan:
    """The plan of a table, ``task-cell``; one that none was made for is as the first tables.

    Example:
        >>> plan_of("recall-gru").n_epochs
        27
    """
    task, cell = table.rsplit("-", 1)
    return _BY_NAME.get(table) or Plan(task, cell, first_space(cell))


_EVERY_SCHEME = ("uniform", "glorot", "orthogonal", "identity")

_PLANS = (
    # To design on.
    Plan(
        "parity",
        "relu",
        Space(
            ("relu",),
            sizes=(8, 16, 32, 64),
            learning_rate=(7e-4, 7e-2),
            init_gain=(0.3, 4.0),
            weight_decay=None,
            dropout=None,
            batch_sizes=(16, 32, 64),
            as_choices=True,
        ),
        n_epochs=30,
    ),
    Plan(
        "parity",
        "mixed",
        Space(
            ("rnn", "gru", "lstm", "relu"),
            sizes=(8, 16, 32, 64),
            learning_rate=(5e-4, 5e-2),
            init_gain=(0.2, 8.0),
            weight_decay=(1e-5, 1e-1),
            dropout=(0.0, 0.3),
            optimizers=("adam", "rmsprop"),
            init_schemes=("uniform", "orthogonal"),
            gate_biases=("zero", "chrono"),
        ),
        n_epochs=24,
    ),
    Plan(
        "teacher",
        "rnn",
        Space(
            ("rnn",),
            sizes=(8, 16, 32, 64, 128),
            learning_rate=(1e-4, 1e-1),
            init_gain=(0.2, 8.0),
            dropout=None,
            optimizers=("adam", "sgd"),
        ),
        n_epochs=40,
    ),
    Plan(
        "teacher",
        "minlstm",
        Space(
            ("minlstm",),
            sizes=(16, 32, 64, 128),
            learning_rate=(3e-4, 3e-2),
            init_gain=(0.2, 5.0),
            clipping=None,
            optimizers=(),
            n_layers=(1, 3),
            gate_bias_value=(-3.0, 3.0),
        ),
        n_configs=120,
        n_epochs=40,
    ),
    Plan(
        "maps",
        "gru",
        Space(
            ("gru",),
            sizes=(8, 16, 32, 64, 128),
            learning_rate=(3e-4, 1e-1),
            init_gain=(0.1, 8.0),
            weight_decay=None,
            clipping=None,
            optimizers=("adam", "rmsprop"),
            fixed={"clipping": 1.0},
        ),
        n_configs=150,
        n_epochs=34,
    ),
    Plan(
        "counting",
        "mingru",
        Space(
            ("mingru",),
            sizes=(16, 32, 64),
            learning_rate=(5e-4, 5e-2),
            init_gain=(0.1, 5.0),
            n_layers=(1, 2),
            gate_bias_value=(-2.0, 6.0),
            optimizers=("adam", "sgd"),
            batch_sizes=(20, 60),
        ),
        n_configs=120,
        n_epochs=24,
    ),
    Plan(
        "counting",
        "antisymmetric",
        Space(
            ("antisymmetric",),
            sizes=(16, 32, 64, 128),
            learning_rate=(1e-3, 1e-1),
            init_gain=(0.05, 8.0),
            dropout=(0.0, 0.2),
            weight_decay=None,
        ),
        n_configs=120,
        n_epochs=30,
    ),
    Plan(
        "pendulum",
        "lstm",
        Space(
            ("lstm",),
            sizes=(16, 32, 64, 128),
            learning_rate=(1e-4, 3e-2),
            init_gain=(0.1, 6.0),
            gate_bias_value=(-3.0, 5.0),
            dropout=(0.0, 0.4),
            clipping=None,
            optimizers=(),
            batch_sizes=(10, 20, 50),
        ),
        n_configs=120,
        n_epochs=36,
    ),
    Plan(
        "matching",
        "mixed",
        Space(
            ("gru", "lstm", "rnn", "lem"),
            sizes=(32, 64, 128),
            learning_rate=(5e-4, 2e-2),
            init_gain=(0.3, 3.0),
            weight_decay=(1e-6, 1e-2),
            dropout=None,
            optimizers=("adam", "rmsprop"),
            init_schemes=("glorot", "orthogonal"),
            gate_biases=("zero", "chrono"),
        ),
        n_configs=120,
        n_epochs=40,
    ),
    Plan(
        "power",
        "rnn",
        Space(
            ("rnn",),
            sizes=(8, 16, 32, 64, 128),
            learning_rate=(3e-5, 3e-2),
            init_gain=(0.1, 8.0),
            clipping=(0.01, 10.0),
            batch_sizes=(8, 16, 32, 64),
            as_choices=True,
        ),
        n_configs=200,
        n_epochs=60,
    ),
    # To report on.
    Plan(
        "brackets",
        "lstm",
        Space(
            ("lstm",),
            sizes=(16, 32, 64, 128),
            learning_rate=(3e-4, 1e-1),
            init_gain=(0.1, 8.0),
            gate_bias_value=(-2.0, 4.0),
            weight_decay=None,
            optimizers=("adam", "rmsprop"),
        ),
        n_configs=120,
        n_epochs=24,
    ),
    Plan(
        "brackets",
        "mixed",
        Space(
            ("rnn", "gru", "relu", "minlstm", "antisymmetric"),
            sizes=(16, 32, 64, 128),
            learning_rate=(5e-4, 5e-2),
            init_gain=(0.1, 4.0),
            init_schemes=_EVERY_SCHEME,
            n_layers=(1, 2),
            gate_biases=("zero", "chrono"),
            optimizers=("adam", "rmsprop"),
        ),
        n_configs=150,
        n_epochs=21,
    ),
    Plan(
        "sorting",
        "gru",
        Space(
            ("gru",),
            sizes=(16, 32, 64, 128, 256),
            learning_rate=(1e-4, 3e-2),
            init_gain=(0.1, 5.0),
            gate_bias_value=(-3.0, 3.0),
            dropout=None,
            weight_decay=(1e-6, 1e-1),
            batch_sizes=(32, 128),
            as_choices=True,
        ),
        n_configs=100,
        n_epochs=20,
    ),
    Plan(
        "integration",
        "mixed",
        Space(
            ("rnn", "lstm", "mingru", "lipschitz", "cornn"),
            sizes=(16, 32, 64, 128),
            learning_rate=(1e-3, 3e-2),
            init_gain=(0.1, 6.0),
            init_schemes=("uniform", "orthogonal", "identity"),
            gate_biases=("zero", "chrono"),
            dropout=(0.0, 0.3),
            clipping=(0.1, 10.0),
        ),
        n_configs=120,
        n_epochs=30,
    ),
    Plan(
        "modular",
        "mixed",
        Space(
            ("rnn", "gru", "lstm", "relu", "lem"),
            sizes=(16, 32, 64),
            learning_rate=(1e-3, 3e-2),
            init_gain=(0.2, 4.0),
            weight_decay=(1e-5, 1e-1),
            dropout=None,
            clipping=None,
            init_schemes=("uniform", "orthogonal"),
            gate_biases=("zero", "chrono"),
            optimizers=("adam", "rmsprop"),
            fixed={"clipping": 1.0},
        ),
        n_configs=150,
        n_epochs=24,
    ),
    Plan(
        "narma",
        "relu",
        Space(
            ("relu",),
            sizes=(16, 32, 64, 128),
            learning_rate=(1e-4, 3e-2),
            init_gain=(0.3, 3.0),
            init_schemes=("uniform", "orthogonal", "identity"),
        ),
        n_configs=130,
        n_epochs=40,
    ),
    Plan(
        "narma",
        "mixed",
        Space(
            ("rnn", "gru", "mingru", "antisymmetric", "cornn"),
            sizes=(16, 32, 64),
            learning_rate=(3e-4, 3e-2),
            init_gain=(0.1, 8.0),
            init_schemes=_EVERY_SCHEME,
            gate_biases=("zero", "chrono"),
            optimizers=("adam", "sgd"),
        ),
        n_configs=140,
        n_epochs=34,
    ),
    Plan(
        "oscillator",
        "lem",
        Space(
            ("lem",),
            sizes=(8, 16, 32, 64),
            learning_rate=(1e-4, 1e-1),
            init_gain=(0.1, 8.0),
            weight_decay=None,
            dropout=(0.0, 0.3),
        ),
        n_configs=110,
        n_epochs=45,
    ),
    Plan(
        "association",
        "mixed",
        Space(
            ("rnn", "gru", "lstm", "minlstm", "lem"),
            sizes=(32, 64, 128),
            learning_rate=(1e-3, 3e-2),
            init_gain=(0.2, 4.0),
            weight_decay=(1e-6, 1e-2),
            dropout=(0.0, 0.3),
            init_schemes=("glorot", "orthogonal"),
            n_layers=(1, 2),
            gatings=("full", "tied"),
            gate_biases=("zero", "chrono"),
            optimizers=("adam", "rmsprop"),
        ),
        n_configs=100,
        n_epochs=12,
    ),
)

_BY_NAME = {plan.name: plan for plan in _PLANS}
