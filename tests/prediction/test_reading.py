"""What is kept of trials between two questions."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle.prediction import reading
from optuna_aelle.prediction.reading import Reader
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import encode_spectrum


def candidate(rate: float) -> FrozenTrial:
    return create_trial(
        state=TrialState.RUNNING,
        params={"learning_rate": rate},
        distributions={"learning_rate": FloatDistribution(1e-5, 1.0, log=True)},
        system_attrs=encode_spectrum([-0.1 - rate, -2.0], UNTRAINED_STEP),
    )


CANDIDATES = [candidate(10.0**-i) for i in range(1, 5)] + [candidate(0.5 / i) for i in (1, 2)]


def test_candidates_are_told_apart_and_forgotten() -> None:
    reader = Reader(1.0)
    traits = reader.read(CANDIDATES, UNTRAINED_STEP)
    assert len({*traits.knobs[:, 0].tolist()}) == len(CANDIDATES)
    assert reader.read(CANDIDATES, UNTRAINED_STEP) is traits
    assert len(reader._rows[UNTRAINED_STEP]) == len(CANDIDATES)
    reader.forget(CANDIDATES[:2])
    assert len(reader._rows[UNTRAINED_STEP]) == len(CANDIDATES) - 2
    left = reader.read(CANDIDATES[2:], UNTRAINED_STEP)
    np.testing.assert_array_equal(left.knobs, traits.knobs[2:])


def test_no_more_is_kept_than_was_asked_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MOST_ROWS", 4)
    reader = Reader(1.0)
    reader.read(CANDIDATES, UNTRAINED_STEP)
    traits = reader.read(CANDIDATES[1:4], UNTRAINED_STEP)
    assert len(reader._rows[UNTRAINED_STEP]) == 3
    fresh = Reader(1.0).read(CANDIDATES[1:4], UNTRAINED_STEP)
    np.testing.assert_array_equal(traits.knobs, fresh.knobs)
    np.testing.assert_array_equal(traits.untrained, fresh.untrained)


def test_a_candidate_is_read_again_when_its_spectrum_is_known() -> None:
    trial = candidate(0.01)
    trial.system_attrs = {}
    reader = Reader(1.0)
    before = reader.read([trial], UNTRAINED_STEP)
    trial.system_attrs = encode_spectrum([-0.3, -2.0], UNTRAINED_STEP)
    after = reader.read([trial], UNTRAINED_STEP)
    assert before is not after
    assert after.untrained[0, 0] > after.untrained[0, -1]
