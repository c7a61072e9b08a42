import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from scipy.stats import spearmanr

from optuna_aelle import AeLLEWarning
from optuna_aelle import Prior
from optuna_aelle.prediction.curves import standings
from optuna_aelle.prediction.prior_file import FORMAT_VERSION
from optuna_aelle.prediction.training import Lessons
from optuna_aelle.prediction.training import Settings
from optuna_aelle.prediction.training import train_network
from optuna_aelle.prediction.traits import COLUMNS
from optuna_aelle.prediction.traits import N_COLUMNS
from optuna_aelle.prediction.traits import Population
from optuna_aelle.prediction.traits import Traits
from optuna_aelle.trials.table import RecordedTrials
from tests.prediction.tables import LENGTH
from tests.prediction.tables import made_up_table

SMALL = Settings(members=2, hidden=16, encoder_hidden=16, latent=3, steps=300, folds=3)


@pytest.fixture(scope="module")
def prior() -> Prior:
    tables = [made_up_table(f"task {i}", i) for i in range(6)]
    return Prior(
        train_network({str(t.metadata["task"]): [Lessons.of(t)] for t in tables}, SMALL),
        tasks=[str(t.metadata["task"]) for t in tables],
    )


@pytest.fixture(scope="module")
def unseen() -> RecordedTrials:
    return made_up_table("unseen", 99)


def agreement(prior: Prior, table: RecordedTrials, step: int = -1) -> float:
    mean, std = prior.predict(table.trials, step, direction=table.direction)
    assert np.isfinite(mean).all()
    assert (std > 0.0).all()
    sign = 1.0 if table.direction == "maximize" else -1.0
    return float(spearmanr(mean, sign * table.finals)[0])


def test_a_task_that_it_has_not_seen_is_ranked_before_training(
    prior: Prior, unseen: RecordedTrials
) -> None:
    assert agreement(prior, unseen) > 0.6
    assert agreement(prior, unseen, step=LENGTH - 1) > 0.85


def test_it_speaks_without_spectra_without_names_and_without_both(prior: Prior) -> None:
    bare = made_up_table("unseen", 98, spectra=False)
    assert agreement(prior, bare) > 0.5
    nameless = {"lr": "x", "hidden": "y", "temperature": "z"}
    assert abs(agreement(prior, made_up_table("unseen", 98, rename=nameless))) <= 1.0
    nothing = made_up_table("unseen", 98, spectra=False, rename=nameless)
    mean, _ = prior.predict(nothing.trials, -1)
    assert np.ptp(mean) < 1e-6
    # Its curve alone still tells.
    assert agreement(prior, nothing, step=LENGTH - 1) > 0.7


def test_own_names_are_told_by_knobs(prior: Prior) -> None:
    renamed = made_up_table("unseen", 98, spectra=False, rename={"lr": "x", "hidden": "y"})
    mean, _ = prior.predict(renamed.trials, knobs={"x": "learning_rate", "y": "hidden_size"})
    known, _ = prior.predict(made_up_table("unseen", 98, spectra=False).trials)
    assert mean == pytest.approx(known)


@pytest.mark.parametrize("step", [-1, 3])
def test_neither_scale_nor_direction_of_the_metric_matters(prior: Prior, step: int) -> None:
    plain = made_up_table("unseen", 97)
    scaled = made_up_table("unseen", 97, scale=1000.0)
    flipped = made_up_table("unseen", 97, direction="maximize")
    reference = prior.predict(plain.trials, step)
    for other in (scaled, flipped):
        found = prior.predict(other.trials, step, direction=other.direction)
        assert found[0] == pytest.approx(reference[0], abs=1e-4)
        assert found[1] == pytest.approx(reference[1], abs=1e-4)


def test_what_is_said_of_a_trial_does_not_depend_on_who_is_asked_with_it(
    prior: Prior, unseen: RecordedTrials
) -> None:
    everyone, _ = prior.predict(unseen.trials, 3)
    for i in (0, 7):
        alone, _ = prior.predict(unseen.trials[i : i + 1], 3, among=unseen.trials)
        assert alone == pytest.approx(everyone[i : i + 1], abs=1e-5)


def test_intervals_hold_on_a_task_that_it_has_not_seen(prior: Prior) -> None:
    inside = []
    for seed in range(90, 96):
        table = made_up_table("unseen", seed)
        mean, std = prior.predict(table.trials, -1)
        places, _ = standings(table.trials, -1.0)
        inside.append(np.abs(places - mean) < 1.2816 * std)
    assert 0.65 < float(np.mean(inside)) < 0.95


def test_damaged_curves_and_spectra_are_no_reason_to_be_silent(
    prior: Prior, unseen: RecordedTrials
) -> None:
    trials = list(made_up_table("unseen", 96).trials)
    trials[0].intermediate_values[3] = float("nan")
    trials[1].intermediate_values[2] = float("inf")
    trials[2].intermediate_values.clear()
    trials[3].system_attrs.clear()
    trials[4].params.clear()
    trials[5].system_attrs["aelle:spectrum:-1"] = {"version": 2, "exponents": "?"}
    with pytest.warns(UserWarning, match="cannot be read"):
        mean, std = prior.predict(trials, 3)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert prior.predict([], 3)[0].shape == (0,)
    # A trial that has diverged is not expected among the best.
    assert mean[0] < np.median(mean)


def test_a_population_that_is_too_small_says_nothing() -> None:
    table = made_up_table("few", 0, n=5)
    traits = Traits.read(table.trials, -1, -1.0)
    columns = traits.among(Population.of(table.trials, -1, -1.0))
    assert columns.shape == (5, N_COLUMNS)
    relative = columns[:, COLUMNS["knobs"]][:, -9:]
    assert np.isnan(relative).all()
    assert not np.isnan(columns[:, COLUMNS["knobs"]][:, 0]).any()


def test_training_leaves_the_caller_as_it_was_and_is_a_function_of_its_seed() -> None:
    lessons = {"a": [Lessons.of(made_up_table("a", 0))], "b": [Lessons.of(made_up_table("b", 1))]}
    quick = Settings(members=1, hidden=4, encoder_hidden=4, latent=2, steps=3, folds=0)
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        first = train_network(lessons, quick)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    torch.manual_seed(4)
    second = train_network(lessons, quick)
    assert all(np.array_equal(first.weights[n], second.weights[n]) for n in first.weights)


def test_a_file_gives_it_again(prior: Prior, unseen: RecordedTrials, tmp_path: Path) -> None:
    path = tmp_path / "mine.prior"
    prior.save(path)
    prior.save(path)
    again = Prior.load(path)
    assert again.tasks == prior.tasks
    assert np.array_equal(again.predict(unseen.trials, 3)[0], prior.predict(unseen.trials, 3)[0])
    assert [p.name for p in tmp_path.iterdir()] == ["mine.prior"]


def test_a_write_that_fails_leaves_the_old_file(
    prior: Prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.prior"
    prior.save(path)
    kept = path.read_bytes()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        prior.save(path)
    assert path.read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["mine.prior"]


def test_damaged_foreign_and_newer_files_are_told_apart(prior: Prior, tmp_path: Path) -> None:
    path = tmp_path / "mine.prior"
    prior.save(path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    for damaged in (b"", b"hello", whole[:middle], flipped):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"written by Prior.save, but .*mine.prior"):
            Prior.load(path)
    other = tmp_path / "other.npz"
    np.savez(other, metadata=np.array(json.dumps({"kind": "other"})))
    with pytest.raises(ValueError, match="of another kind"):
        Prior.load(other)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, metadata=np.array([{"kind": "optuna-aelle prior"}], dtype=object))
    with pytest.raises(ValueError, match="damaged or of another kind"):
        Prior.load(pickled)
    newer = {"kind": "optuna-aelle prior", "format_version": FORMAT_VERSION + 1, "tasks": []}
    np.savez(other, metadata=np.array(json.dumps(newer)))
    with pytest.raises(ValueError, match=r"has version 3.*Update optuna-aelle"):
        Prior.load(other)
    with pytest.raises(FileNotFoundError):
        Prior.load(tmp_path / "nowhere.prior")


@pytest.mark.parametrize("missing", ["network.stretch", "weights.ways", "weights.second"])
def test_a_file_that_lacks_a_part_is_told_when_it_is_read(
    missing: str, prior: Prior, tmp_path: Path
) -> None:
    path = tmp_path / "mine.npz"
    prior.save(path)
    with np.load(path) as file:
        kept = {name: file[name] for name in file.files if name != missing}
    np.savez(path, **kept)
    with pytest.raises(ValueError, match=f"damaged or of another kind .*{missing.split('.')[1]}"):
        Prior.load(path)


@pytest.mark.parametrize("based", [True, False])
def test_what_a_person_learned_before_speaks_where_the_base_is_silent(
    prior: Prior, based: bool, tmp_path: Path
) -> None:
    first = made_up_table("own", 50, best_temperature=0.2, n=60)
    second = made_up_table("own", 51, best_temperature=0.2, n=60)
    base = prior if based else None
    learned = Prior.learn([first], base)
    assert "own" in learned.tasks
    before = agreement(prior, second) if based else 0.0
    assert agreement(learned, second) > max(before + 0.15, 0.6)
    learned.save(tmp_path / "own.prior")
    again = Prior.load(tmp_path / "own.prior")
    assert again.predict(second.trials)[0] == pytest.approx(learned.predict(second.trials)[0])
    # More is learned on top of it.
    more = Prior.learn([made_up_table("own", 52, best_temperature=0.2)], again)
    assert more.past is not None
    assert more.past.n_studies == 2
    assert agreement(more, second) > max(before + 0.15, 0.6)


def test_it_learns_from_optuna_s_studies_pruned_trials_included() -> None:
    study = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=0), study_name="mine", direction="maximize"
    )

    def objective(trial: optuna.Trial) -> float:
        x, kind = trial.suggest_float("x", 0, 1), trial.suggest_categorical("kind", ["a", None])
        for step in range(4):
            trial.report(-x - (kind is None) - 1 / (step + 1), step)
            if x > 0.6 and step == 1:
                raise optuna.TrialPruned
        return -x - (kind is None)

    study.optimize(objective, n_trials=40)
    learned = Prior.learn([study])
    mean, _ = learned.predict(study.trials)
    ends = [t.params["x"] + (t.params["kind"] is None) for t in study.trials]
    assert spearmanr(mean, ends)[0] < -0.8
    few = made_up_table("few", 0, n=4)
    with (
        pytest.warns(AeLLEWarning, match="Nothing is learned from 'few-0': it has 4 trials"),
        pytest.raises(ValueError, match="at least 6 trials that ended, got none among 1"),
    ):
        Prior.learn([few])


def test_studies_that_say_too_little_are_passed_over() -> None:
    plain = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), study_name="plain")
    # Values are enough: what is learned of is where trials ended.
    plain.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=30)
    empty = optuna.create_study(study_name="empty")
    with pytest.warns(AeLLEWarning, match="Nothing is learned from 'empty': it has 0 trials"):
        learned = Prior.learn([plain, empty])
    assert learned.past is not None
    assert learned.past.n_studies == 1
    mean, _ = learned.predict(plain.trials)
    assert spearmanr(mean, [t.params["x"] for t in plain.trials])[0] < -0.9
    with pytest.raises(TypeError, match="must be a list of studies"):
        Prior.learn(plain)  # type: ignore[arg-type]
    assert Prior.learn([plain], "pretrained").tasks > Prior.pretrained().tasks
    two = optuna.create_study(directions=["minimize", "minimize"], study_name="two")
    with pytest.raises(ValueError, match="one objective, but 'two' has 2"):
        Prior.learn([plain, two])


def test_a_past_that_does_not_fit_changes_little(prior: Prior) -> None:
    strange = RecordedTrials(
        "strange",
        "minimize",
        tuple(
            made_up_table("x", 60, rename={"lr": "a", "hidden": "b", "temperature": "c"}).trials
        ),
        np.ones(40),
    )
    unseen = made_up_table("unseen", 61)
    learned = Prior.learn([strange], prior)
    assert agreement(learned, unseen) > agreement(prior, unseen) - 0.1


def test_asking_needs_no_torch() -> None:
    code = (
        "import sys, optuna_aelle\n"
        "from tests.prediction.tables import made_up_table\n"
        "prior = optuna_aelle.Prior.pretrained()\n"
        "print(prior.predict(made_up_table('x', 0).trials)[0].shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(40,) False"


def test_the_shipped_one_is_small_and_names_its_tasks() -> None:
    pretrained = Prior.pretrained()
    assert pretrained is Prior.pretrained()
    assert {"digits", "charlm", "fashion"} <= pretrained.tasks
    from optuna_aelle.prediction import prior as module

    file = Path(str(module.__file__)).parent / "pretrained.npz"
    assert file.stat().st_size <= 3e6
