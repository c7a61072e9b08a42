"""What is taken away from ours is gone, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.race.ablations import Nameless
from benchmarks.race.ablations import Reversed
from benchmarks.race.ablations import ablation_arms
from benchmarks.race.arms import all_arms
from benchmarks.race.arms import knows_other_tasks
from benchmarks.race.forest import load
from optuna_aelle import Prior


def test_priors_that_are_changed_say_what_they_should() -> None:
    network = Prior.pretrained().network
    assert network is not None
    trials = load("maps-gru").trials[:30]
    plain = Prior(network).predict(trials)
    reverse = Prior(Reversed(**vars(network))).predict(trials)
    assert reverse[0] == pytest.approx(-plain[0])
    assert reverse[1] == pytest.approx(plain[1])
    nameless = Prior(Nameless(**vars(network)))
    found = nameless.predict(trials)
    assert not np.allclose(found[0], plain[0])
    unknown = dict.fromkeys(trials[0].params, "batch_size")
    assert nameless.predict(trials, knobs=unknown)[0] == pytest.approx(found[0])


def test_ablations_are_arms_like_others() -> None:
    arms = all_arms(load("maps-gru"))
    assert ablation_arms("maps").keys() <= arms.keys()
    assert all(knows_other_tasks(name) for name in ablation_arms(""))
