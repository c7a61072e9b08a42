"""One trial explained: what the storage says, beside the best, whatever lies there."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from optuna.trial import create_trial

from optuna_aelle import AeLLEPruner
from optuna_aelle.decisions.explanation import Explanation
from optuna_aelle.decisions.explanation import explain_trial
from optuna_aelle.decisions.text_pictures import compared
from optuna_aelle.decisions.verdict import VERDICT_KEY
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.prediction.forecast import FORECAST_PREFIX
from optuna_aelle.prediction.forecast import decode_forecasts
from optuna_aelle.trials.attributes import SPECTRUM_PREFIX
from optuna_aelle.trials.attributes import decode_spectra
from optuna_aelle.trials.attributes import encode_spectrum
from optuna_aelle.trials.continuation import CONTINUES_KEY
from optuna_aelle.trials.continuation import enqueue_continuation
from optuna_aelle.trials.continuation import furthest
from tests.conftest import made_trials
from tests.conftest import run_synthetic


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    study = optuna.create_study(study_name="search", pruner=AeLLEPruner())
    run_synthetic(study, 30)
    return study


def pruned_by(study: optuna.Study, by: str) -> int:
    for trial in study.trials:
        verdict = decode_verdict(trial)
        if verdict is not None and verdict.by == by:
            return trial.number
    raise AssertionError(by)


def strict(explanation: Explanation) -> dict[str, Any]:
    """Through JSON, which must not need NaN or infinity."""
    loaded: dict[str, Any] = json.loads(json.dumps(explanation.as_dict(), allow_nan=False))
    return loaded


def test_says_what_the_storage_says(study: optuna.Study) -> None:
    number = pruned_by(study, "AeLLE")
    trial = study.trials[number]
    explained = explain_trial(study, number)
    verdict, forecast = decode_verdict(trial), list(decode_forecasts(trial).values())[-1]
    assert verdict is not None
    assert explained.verdict == verdict
    assert explained.sentence == verdict.sentence()
    assert explained.forecast == forecast
    assert explained.forecast_source == "stored"
    assert explained.no_forecast is None
    assert explained.bar == verdict.bar == forecast.bar_value
    assert explained.trial.spectrum == tuple(decode_spectra(trial)[-1])
    assert explained.best is not None
    assert explained.best.number == study.best_trial.number
    assert explained.best.curve == study.best_trial.intermediate_values
    assert not explained.is_best


def test_the_dictionary_and_the_page_hold_it_all(study: optuna.Study) -> None:
    explained = explain_trial(study, pruned_by(study, "AeLLE"))
    assert explained.forecast is not None
    found = strict(explained)
    assert found["trial"]["lambda_1"] == explained.trial.lambda_1
    assert found["forecast"]["interval"] == list(explained.forecast.interval)
    assert found["verdict"]["by"] == "AeLLE"
    text = explained.text()
    assert explained.sentence in text
    assert f"{explained.forecast.value:.5g}" in text
    assert f"+ the best, trial {study.best_trial.number}" in text
    assert max(map(len, text.splitlines())) < 300


@pytest.mark.parametrize("number", range(0, 30, 3))
def test_every_trial_has_a_sentence_and_a_page(study: optuna.Study, number: int) -> None:
    explained = explain_trial(study, number, ask_predictor=False)
    assert explained.sentence
    assert explained.text().startswith(f"trial {number} of 'search': ")
    assert (explained.forecast is None) == (explained.no_forecast is not None)
    strict(explained)


def test_the_best_trial_is_compared_with_nobody(study: optuna.Study) -> None:
    explained = explain_trial(study, study.best_trial.number)
    assert explained.is_best
    assert "place 1 of" in explained.sentence
    assert "It is the best finished trial." in explained.text()
    assert "+ the best" not in explained.text()


def test_a_forecast_that_nobody_made_comes_from_the_others(study: optuna.Study) -> None:
    number = pruned_by(study, "SuccessiveHalvingPruner")
    pruned = study.trials[number]
    explained = explain_trial(study, number)
    assert explained.forecast_source == "computed"
    assert explained.forecast is not None
    assert explained.forecast.step == pruned.last_step
    assert "computed now from the other trials" in explained.text()
    # What it came to is not among what its forecast was made of.
    without = optuna.create_study()
    without.add_trials([t for t in study.trials if t.number != number])
    waits = create_trial(
        state=TrialState.RUNNING,
        params=pruned.params,
        distributions=pruned.distributions,
        intermediate_values=pruned.intermediate_values,
        system_attrs={k: x for k, x in pruned.system_attrs.items() if SPECTRUM_PREFIX in k},
    )
    without.add_trial(waits)
    again = explain_trial(without, len(without.trials) - 1)
    assert again.forecast is not None
    assert again.forecast.value == pytest.approx(explained.forecast.value)
    assert explain_trial(study, number, ask_predictor=False).forecast is None


def test_without_a_forecast_it_says_why() -> None:
    study = optuna.create_study()
    study.add_trials(made_trials(6))
    finished = next(t for t in study.trials if t.state == TrialState.COMPLETE)
    pruned = next(t for t in study.trials if t.state == TrialState.PRUNED)
    assert "its end is known" in str(explain_trial(study, finished.number).no_forecast)
    assert "only 5 other trials" in str(explain_trial(study, pruned.number).no_forecast)
    assert "has not been trained" in str(_of(TrialState.FAIL).no_forecast)
    # Values that nothing predicts: chance must not pass for a forecast.
    rng = np.random.default_rng(0)
    noise = optuna.create_study()
    for number in range(40):
        noise.add_trial(
            create_trial(
                state=TrialState.COMPLETE if number % 2 else TrialState.PRUNED,
                value=float(rng.normal()),
                intermediate_values={s: float(rng.normal()) for s in range(2 + 4 * (number % 2))},
            )
        )
    assert "do not rank" in str(explain_trial(noise, 0).no_forecast)


def _of(state: TrialState) -> Explanation:
    study = optuna.create_study()
    ended = {"value": 1.0} if state == TrialState.COMPLETE else {}
    study.add_trial(create_trial(state=state, **ended))  # type: ignore[arg-type]
    return explain_trial(study, 0)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (TrialState.COMPLETE, "ran to its end: place 1 of the 1"),
        (TrialState.PRUNED, "the pruner has not said why"),
        (TrialState.RUNNING, "it is running"),
        (TrialState.WAITING, "it has not been started"),
        (TrialState.FAIL, "it failed"),
    ],
)
def test_a_bare_trial_of_any_state(state: TrialState, says: str) -> None:
    explained = _of(state)
    assert says in explained.sentence
    assert "spectrum: none is stored" in explained.text()
    strict(explained)


def test_who_goes_on_with_whom() -> None:
    study = optuna.create_study()
    spectrum = encode_spectrum(-np.arange(1.0, 9.0), -1)
    study.add_trial(create_trial(value=0.5, intermediate_values={0: 0.5}, system_attrs=spectrum))
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={0: 0.8}))
    enqueue_continuation(study, study.trials[1])
    study.tell(study.ask(), 0.1)
    origin, continuation = (explain_trial(study, n) for n in (1, 2))
    assert (origin.continues, origin.continued_by) == (None, 2)
    assert (continuation.continues, continuation.continued_by) == (1, None)
    assert "goes on as trial 2" in origin.text()
    assert "network of trial 1" in continuation.text()


@pytest.mark.parametrize("origin", [1, 2, 99])
def test_continuations_never_lead_round_in_circles(origin: int) -> None:
    study = optuna.create_study()
    study.add_trial(create_trial(value=0.5, intermediate_values={0: 0.5}))
    for continues in (origin, 1):
        payload = {"version": 1, "trial": continues, "step": 0, "given_up": False}
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED,
                intermediate_values={0: 0.8},
                system_attrs={CONTINUES_KEY: payload},
            )
        )
    assert furthest(study.trials)[0].number == 0
    for number in range(3):
        assert explain_trial(study, number).text()


def test_numbers_that_are_not_finite_are_null() -> None:
    study = optuna.create_study()
    study.add_trial(
        create_trial(
            value=math.inf,
            intermediate_values={0: math.nan, 1: -math.inf, 2: 1.0},
            system_attrs=encode_spectrum([-0.1, -math.inf], -1),
        )
    )
    explained = explain_trial(study, 0)
    found = strict(explained)
    assert found["trial"]["curve"] == {"0": None, "1": None, "2": 1.0}
    assert found["trial"]["spectrum"][-1] is None
    assert explained.best is None
    assert "not finite" in explained.text()


_DAMAGE: list[Any] = [
    None,
    1,
    "text",
    [],
    {},
    {"version": "x"},
    {"version": 1},
    {"version": 99},
    {"version": 1, "by": "AeLLE", "step": float("inf")},
    {"version": 1, "by": [], "step": 0, **dict.fromkeys(("value", "bar", "rank"), "high")},
    {
        "version": 1,
        "by": "MedianPruner",
        "step": 0,
        **dict.fromkeys(("value", "bar", "rank", "n_compared", "rung", "risk"), "high"),
    },
    {
        "version": 1,
        "standing": [float("nan")] * 2,
        "value": [float("nan"), -1.0],
        "bar": [0.0, 0.0],
        "share": None,
        "chance": float("nan"),
        "skill": [0, 0, 0],
        "spoke": "",
    },
    {"version": 2, "exponents": [1] * 32, "n": "x", "after": 3, "trial": []},
]


@pytest.mark.filterwarnings("ignore::optuna_aelle.AeLLEWarning")
@pytest.mark.parametrize("damage", _DAMAGE, ids=lambda damage: str(damage)[:40])
@pytest.mark.parametrize(
    "key",
    [f"{SPECTRUM_PREFIX}-1", f"{SPECTRUM_PREFIX}x", f"{FORECAST_PREFIX}0", VERDICT_KEY]
    + [CONTINUES_KEY, "failed_trial", "retry_history"],
)
def test_damaged_attributes_are_left_out(key: str, damage: Any) -> None:
    study = optuna.create_study()
    study.add_trial(create_trial(value=0.5, intermediate_values={0: 0.5}))
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED, intermediate_values={0: 0.8}, system_attrs={key: damage}
        )
    )
    for number in (0, 1):
        explained = explain_trial(study, number)
        assert explained.sentence
        assert explained.text()
        strict(explained)


def test_of_several_objectives_one_is_explained() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.add_trial(create_trial(values=[1.0, 1.0]))
    study.add_trial(create_trial(values=[2.0, 2.0]))
    assert explain_trial(study, 0).is_best
    second = explain_trial(study, 0, objective=1)
    assert not second.is_best
    place = "on the Pareto front; in objective 1 place 2 of the 2 that have finished"
    assert second.sentence == f"ran to its end: {place}"
    assert "complete, value 1 in objective 1\n" in second.text()
    assert "The best finished trial in objective 1 is 1, 2." in second.text()
    study.add_trial(create_trial(values=[3.0, 0.5]))
    assert explain_trial(study, 2).sentence.startswith("ran to its end: not on the Pareto front;")
    assert "several objectives" in str(explain_trial(study, 0).no_forecast)
    with pytest.raises(ValueError, match="objective from 0 to 1"):
        explain_trial(study, 0, objective=2)


def test_an_unknown_trial_is_an_error_that_says_which_there_are(study: optuna.Study) -> None:
    with pytest.raises(ValueError, match="numbered 0 to 29"):
        explain_trial(study, 30)
    with pytest.raises(ValueError, match="it has none"):
        explain_trial(optuna.create_study(), 0)


def test_a_terminal_is_told_nothing_to_do() -> None:
    study = optuna.create_study(study_name="red\x1b[31m\n\x07")
    trial = study.ask()
    trial.suggest_categorical("a\x1b]0;title\x07", ["\x1b[2J"])
    study.tell(trial, 1.0)
    text = explain_trial(study, 0).text()
    assert all(c.isprintable() or c == "\n" for c in text)


def test_pictures_place_both_curves() -> None:
    lines = compared([(0, 0.0), (1, 1.0)], [(0, 0.0), (1, 0.0)], x_labels=("left", "right"))
    assert lines[0].endswith("o")
    assert lines[8].startswith(f"{'0':>9} |*")
    assert lines[8].endswith("+")
    assert lines[-1].endswith("right")
    assert compared([(0, math.nan)], []) == []
    assert len(compared([(3, 2.0)], [])) == 10
    # The difference is larger than any number.
    assert compared([(0, -1e308), (1, 1e308)], [])[0].endswith("o")
