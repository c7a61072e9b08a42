import math

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial
from optuna.trial import create_trial

from optuna_aelle.prediction.knobs import CHOICES
from optuna_aelle.prediction.knobs import KNOBS
from optuna_aelle.prediction.knobs import N_KNOB_COLUMNS
from optuna_aelle.prediction.knobs import NUMBERS
from optuna_aelle.prediction.knobs import knob_columns
from optuna_aelle.prediction.knobs import knob_of


def trial_of(**params: object) -> FrozenTrial:
    distributions = {
        name: CategoricalDistribution([value])
        if isinstance(value, str)
        else FloatDistribution(-1e9, 1e9)
        for name, value in params.items()
    }
    return create_trial(value=0.0, params=params, distributions=distributions)


@pytest.mark.parametrize(
    ("spoken", "knob"),
    [
        ("lr", "learning_rate"),
        ("Learning-Rate", "learning_rate"),
        ("eta0", "learning_rate"),
        ("optimizer.lr", "learning_rate"),
        ("adam/weight_decay", "weight_decay"),
        ("hiddenSize", "hidden_size"),
        ("n_units", "hidden_size"),
        ("num_layers", "n_layers"),
        ("grad_clip", "clipping"),
        ("optimizer", "optimizer"),
        ("rnn_type", "cell"),
        ("temperature", None),
        ("lrs", None),
    ],
)
def test_what_people_call_their_parameters(spoken: str, knob: str | None) -> None:
    assert knob_of(spoken) == knob


def test_every_knob_is_known_by_its_own_name() -> None:
    assert [knob_of(knob) for knob in KNOBS] == list(KNOBS)


def test_own_names_are_mapped_and_mistakes_are_said() -> None:
    assert knob_of("my_rate", {"my_rate": "learning_rate"}) == "learning_rate"
    # A name that means something else to its owner is not taken for what others mean.
    assert knob_of("lr", {"lr": "dropout"}) == "dropout"
    with pytest.raises(ValueError, match=r"'my_rate' to one of learning_rate.*got 'rate'"):
        knob_of("x", {"my_rate": "rate"})


def test_numbers_are_in_natural_units_whatever_they_are_called() -> None:
    columns = knob_columns([trial_of(lr=0.01, drop=0.3), trial_of(learning_rate=0.01)])
    numbers = list(NUMBERS)
    assert columns.shape == (2, N_KNOB_COLUMNS)
    assert columns[:, numbers.index("learning_rate")] == pytest.approx([math.log(0.01)] * 2)
    assert columns[0, numbers.index("dropout")] == 0.3
    assert np.isnan(columns[1, numbers.index("dropout")])


def test_choices_are_one_hot_and_an_unknown_one_is_none_of_them() -> None:
    trials = [trial_of(optimizer=x) for x in ("AdamW", "SGD", "lion")] + [trial_of(lr=0.1)]
    columns = knob_columns(trials)[:, len(NUMBERS) : len(NUMBERS) + len(CHOICES["optimizer"])]
    assert columns[:3].tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert np.isnan(columns[3]).all()


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan, "fast", None, True, [1]])
def test_what_cannot_be_read_is_missing(value: object) -> None:
    trial = trial_of(lr=0.1)
    trial.params["lr"] = value
    assert np.isnan(knob_columns([trial])[0, 0])


def test_zero_has_a_logarithm_here() -> None:
    # Weight decay is often searched from 0 on.
    assert np.isfinite(knob_columns([trial_of(weight_decay=0.0)])[0, 3])
