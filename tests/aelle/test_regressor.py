"""AeLLERegressor: what it learns, what it must not see, and how it behaves as an estimator.

The test problem is a family of spectra with two hidden parameters, three noisy spectra per
network, and a score that is a smooth function of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from optuna_aelle.aelle import AeLLERegressor
from optuna_aelle.aelle import regressor_file
from optuna_aelle.aelle.autoencoder import BATCH_ROWS
from optuna_aelle.aelle.autoencoder import train
from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.fingerprint import resample_exponents

EPOCHS = 3


def spectra_and_scores(
    seed: int, networks: int, *, noise: float = 0.1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return spectra (3 * networks, 32), scores of the networks repeated, and network numbers."""
    rng = np.random.default_rng(seed)
    top, decay = rng.uniform(-1.5, 0.3, networks), rng.uniform(-1.0, 1.5, networks)
    scores = np.tanh(3.0 * (top + 0.5)) + 0.5 * np.sin(2.0 * decay)
    scores += rng.normal(0.0, noise, networks)
    rows = np.repeat(np.arange(networks), EPOCHS)
    top = top[rows] + rng.normal(0.0, 0.05, rows.size)
    decay = decay[rows] + rng.normal(0.0, 0.05, rows.size)
    position = np.linspace(0.0, 1.0, FINGERPRINT_LENGTH) ** 1.5
    exponents = top[:, None] - 3.0 * np.exp(decay)[:, None] * position
    exponents += rng.normal(0.0, 0.03, exponents.shape) * (1.0 + np.abs(exponents))
    exponents = -np.sort(-exponents, axis=1)
    exponents[exponents < -12.0] = -np.inf
    return exponents, scores[rows], rows


def rmse(predicted: np.ndarray, actual: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - actual) ** 2)))


@pytest.fixture(scope="module")
def fitted() -> AeLLERegressor:
    X, y, groups = spectra_and_scores(0, 20)
    return AeLLERegressor(random_state=0).fit(X, y, groups=groups)


@parametrize_with_checks([AeLLERegressor(n_members=3, n_steps=100)])
def test_scikit_learn_conformance(estimator: AeLLERegressor, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.mark.parametrize("noise", [0.1, 0.7, 2.0])
def test_not_worse_than_ridge_on_twenty_networks(noise: float) -> None:
    ours, ridges, constants = [], [], []
    for seed in range(4):
        X, y, groups = spectra_and_scores(seed, 170, noise=noise)
        known = groups < 20
        features = np.arcsinh(np.maximum(X, -50.0) / 0.1)
        features = (features - features[known].mean(axis=0)) / features[known].std(axis=0)
        ridge = Ridge(alpha=1.0).fit(features[known], y[known])
        model = AeLLERegressor(random_state=seed).fit(X[known], y[known], groups=groups[known])
        ours.append(rmse(model.predict(X[~known]), y[~known]))
        ridges.append(rmse(ridge.predict(features[~known]), y[~known]))
        constants.append(rmse(np.full_like(y[~known], y[known].mean()), y[~known]))
    assert np.mean(ours) <= np.mean(ridges)
    # Where nearly all of the score is noise, the mean is the best prediction there is.
    assert np.mean(ours) <= (1.03 if noise == 2.0 else 0.9) * np.mean(constants)


def test_unscored_spectra_do_not_hurt() -> None:
    without, with_unscored = [], []
    for seed in range(8):
        X, y, groups = spectra_and_scores(seed, 200)
        known, train_rows, test = groups < 20, groups < 100, groups >= 100
        partly = np.where(known, y, np.nan)
        few = AeLLERegressor(random_state=seed).fit(X[known], y[known], groups=groups[known])
        many = AeLLERegressor(random_state=seed).fit(
            X[train_rows], partly[train_rows], groups=groups[train_rows]
        )
        without.append(rmse(few.predict(X[test]), y[test]))
        with_unscored.append(rmse(many.predict(X[test]), y[test]))
    assert np.mean(with_unscored) <= 1.1 * np.mean(without)


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_intervals_cover_held_out_networks(noise: float) -> None:
    within_one, within_two = [], []
    for seed in range(6):
        X, y, groups = spectra_and_scores(seed, 180, noise=noise)
        known = groups < 30
        model = AeLLERegressor(random_state=seed).fit(X[known], y[known], groups=groups[known])
        mean, std = model.predict(X[~known], return_std=True)
        within_one.append(np.mean(np.abs(y[~known] - mean) < std))
        within_two.append(np.mean(np.abs(y[~known] - mean) < 1.96 * std))
    assert 0.55 <= np.mean(within_one) <= 0.85
    assert 0.85 <= np.mean(within_two) <= 1.0


def test_members_cannot_reach_scores_that_they_may_not_see() -> None:
    rng = np.random.default_rng(0)
    n = BATCH_ROWS + 10
    x, y = rng.normal(size=(n, 6)), np.tile(rng.normal(size=n), (2, 1))
    seen = np.ones((2, n))
    seen[0, :20] = 0.0
    settings = {"hidden": 4, "latent": 2, "steps": 30, "learning_rate": 0.02, "seed": 0}
    before = train(x, y, seen, weight_decay=1.0, noise=0.3, **settings)
    y[:, :20] += 100.0
    after = train(x, y, seen, weight_decay=1.0, noise=0.3, **settings)
    for name in before:
        np.testing.assert_array_equal(before[name][0], after[name][0])
    assert np.abs(before["score"][1] - after["score"][1]).max() > 0.01


def test_out_of_fold_predictions_are_as_good_as_held_out_ones_and_no_better() -> None:
    inside, outside, leaked = [], [], []
    for seed in range(4):
        X, y, groups = spectra_and_scores(seed, 130, noise=1.0)
        known = groups < 30
        model = AeLLERegressor(random_state=seed)
        model.fit(X[known], y[known], groups=groups[known])
        inside.append(rmse(model.out_of_fold_prediction_, y[known]))
        outside.append(rmse(model.predict(X[~known]), y[~known]))
        # Epochs of one network on both sides of a split are the leak that groups prevent.
        model.fit(X[known], y[known])
        leaked.append(rmse(model.out_of_fold_prediction_, y[known]))
    assert 0.85 <= np.mean(inside) / np.mean(outside) <= 1.2
    assert np.mean(leaked) < 0.9 * np.mean(inside)


def test_unscored_rows_take_the_ensemble_mean_out_of_fold() -> None:
    X, y, groups = spectra_and_scores(1, 20)
    y[groups >= 12] = np.nan
    labels = np.array([f"trial {group}" for group in groups])
    model = AeLLERegressor(random_state=0).fit(X, y, groups=labels)
    predicted = model.predict(X)
    unscored = np.isnan(y)
    np.testing.assert_allclose(model.out_of_fold_prediction_[unscored], predicted[unscored])
    assert np.abs(model.out_of_fold_prediction_ - predicted)[~unscored].min() > 1e-6


def test_few_scored_networks() -> None:
    X, y, groups = spectra_and_scores(2, 10)
    one = np.where(groups == 4, y, np.nan)
    model = AeLLERegressor(random_state=0).fit(X, one, groups=groups)
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_allclose(model.out_of_fold_prediction_, y[groups == 4][0])
    np.testing.assert_allclose(mean, y[groups == 4][0])
    assert np.isposinf(std).all()

    two = np.where(groups < 2, y, np.nan)
    model = AeLLERegressor(random_state=0).fit(X, two, groups=groups)
    # With two networks each member has learned from the other one alone: nothing.
    np.testing.assert_allclose(
        model.out_of_fold_prediction_[groups < 2], y[groups < 2].mean(), rtol=1e-6
    )
    assert np.isfinite(model.predict(X, return_std=True)[1]).all()


def test_dead_directions_and_constant_positions() -> None:
    X, y, groups = spectra_and_scores(3, 20)
    X[:, -1], X[:, 0] = -np.inf, 0.25
    X[0] = -np.inf
    model = AeLLERegressor(random_state=0).fit(X, y, groups=groups)
    assert np.isfinite(model.predict(X)).all()
    np.testing.assert_array_equal(model.predict(X), model.predict(np.maximum(X, -50.0)))
    decoded = model.inverse_transform(model.transform(X))
    assert np.isfinite(decoded).all()
    assert decoded.min() >= -50.0


def test_reconstruction_explains_the_spectra(fitted: AeLLERegressor) -> None:
    X, _, _ = spectra_and_scores(1, 60)
    finite = np.isfinite(X)
    latent = fitted.transform(X)
    assert latent.shape == (len(X), 8)

    def squashed(exponents: np.ndarray) -> np.ndarray:
        return np.arcsinh(exponents / 0.1)

    error = np.abs(squashed(fitted.inverse_transform(latent)) - squashed(X))[finite].mean()
    center = np.median(np.where(finite, X, np.nan), axis=0)
    spread = np.abs(squashed(np.broadcast_to(center, X.shape)) - squashed(X))
    assert error < 0.5 * np.nanmean(spread[finite])


def test_spectra_of_different_lengths_are_resampled() -> None:
    X, y, groups = spectra_and_scores(4, 12)
    ragged = [row[: 20 + 4 * (i % 4)] for i, row in enumerate(X)]
    model = AeLLERegressor(random_state=0).fit(ragged, y, groups=groups)
    same = np.stack([resample_exponents(row) for row in ragged])
    reference = AeLLERegressor(random_state=0).fit(same, y, groups=groups)
    assert model.n_features_in_ == FINGERPRINT_LENGTH
    np.testing.assert_array_equal(model.predict(ragged), reference.predict(same))
    np.testing.assert_allclose(model.predict(ragged[:1]), reference.predict(same)[:1])
    with pytest.raises(ValueError, match="different lengths"):
        reference.predict(ragged)
    # Arrays are read in the same way, whatever they are as wide as.
    wide = X[:5, :40]
    np.testing.assert_array_equal(model.predict(wide), model.predict(list(wide)))
    np.testing.assert_array_equal(model.transform(wide), model.transform(list(wide)))


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, pd.DataFrame, list])
@pytest.mark.parametrize("k", [12, FINGERPRINT_LENGTH, 40])
def test_tables_of_any_width_after_ragged_spectra(kind: Callable[..., Any], k: int) -> None:
    X, y, groups = spectra_and_scores(4, 12)
    ragged = [row[: 20 + 4 * (i % 4)] for i, row in enumerate(X)]
    model = AeLLERegressor(random_state=0).fit(ragged, y, groups=groups)
    table = X[:5, :k]
    expected = resample_exponents(table)
    reference = AeLLERegressor(random_state=0).fit(
        np.stack([resample_exponents(row) for row in ragged]), y, groups=groups
    )
    given = table if kind is list else kind(table)
    given = list(given) if kind is list else given
    np.testing.assert_array_equal(model.predict(given), reference.predict(expected))
    np.testing.assert_array_equal(model.transform(given), reference.transform(expected))
    with pytest.raises(ValueError, match="2D array"):
        model.predict(table[0])


@pytest.mark.parametrize("method", ["predict", "transform", "inverse_transform", "save"])
def test_before_a_fit_and_after_one_that_failed(method: str, tmp_path: Path) -> None:
    model = AeLLERegressor()
    argument = tmp_path / "model.npz" if method == "save" else np.zeros((2, 8))
    with pytest.raises(NotFittedError):
        getattr(model, method)(argument)
    with pytest.raises(ValueError, match="at least one finite score"):
        model.fit(-np.ones((3, 8)), np.full(3, np.nan))
    with pytest.raises(NotFittedError):
        getattr(model, method)(argument)


def test_a_fit_that_fails_leaves_the_one_before() -> None:
    X, y, groups = spectra_and_scores(4, 12)
    model = AeLLERegressor(random_state=0).fit(X[:, :FINGERPRINT_LENGTH], y, groups=groups)
    before = model.predict(X[:, :FINGERPRINT_LENGTH])
    with pytest.raises(ValueError, match="infinite"):
        model.fit([row[: 20 + i % 2] for i, row in enumerate(X)], np.full(len(X), np.inf))
    np.testing.assert_array_equal(model.predict(X[:, :FINGERPRINT_LENGTH]), before)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_global_state_is_neither_used_nor_changed(
    guard: Callable[[], AbstractContextManager[None]], fitted: AeLLERegressor
) -> None:
    X, y, groups = spectra_and_scores(0, 20)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    AeLLERegressor(n_steps=5, random_state=None).fit(X, y)
    with guard():
        again = AeLLERegressor(random_state=0).fit(X, y, groups=groups)
    torch.set_default_dtype(torch.float64)
    try:
        wide = AeLLERegressor(random_state=0).fit(X, y, groups=groups)
    finally:
        torch.set_default_dtype(dtype)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(wide.predict(X), fitted.predict(X))
    other = AeLLERegressor(random_state=1).fit(X, y, groups=groups)
    assert np.abs(other.predict(X) - fitted.predict(X)).max() > 1e-3


def test_saved_and_loaded_predictions_are_identical(
    fitted: AeLLERegressor, tmp_path: Path
) -> None:
    path = tmp_path / "no_suffix"
    fitted.save(path)
    loaded = AeLLERegressor.load(path)
    X, _, _ = spectra_and_scores(5, 10)
    for ours, theirs in zip(
        fitted.predict(X, return_std=True), loaded.predict(X, return_std=True), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(fitted.transform(X), loaded.transform(X))
    np.testing.assert_array_equal(fitted.out_of_fold_prediction_, loaded.out_of_fold_prediction_)
    assert loaded.get_params() == fitted.get_params()
    assert vars(loaded).keys() == vars(fitted).keys()


def test_files_of_another_kind_or_a_newer_format(
    fitted: AeLLERegressor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = tmp_path / "newer.npz"
    with monkeypatch.context() as patch:
        patch.setattr(regressor_file, "FORMAT_VERSION", 2)
        fitted.save(newer)
    with pytest.raises(ValueError, match="version 2.*Update"):
        AeLLERegressor.load(newer)
    for name, save in (("other.npz", np.savez), ("other.npy", np.save)):
        save(tmp_path / name, np.zeros(3))
        with pytest.raises(ValueError, match="Expected a file written by AeLLERegressor.save"):
            AeLLERegressor.load(tmp_path / name)


def test_bad_data_is_refused() -> None:
    X, y, groups = spectra_and_scores(0, 4)
    model = AeLLERegressor(n_steps=1)
    for bad in (np.nan, np.inf):
        spoiled = X.copy()
        spoiled[0, 0] = bad
        with pytest.raises(ValueError, match="1 NaN or \\+inf"):
            model.fit(spoiled, y)
    with pytest.raises(ValueError, match="1 infinite among 12"):
        model.fit(X, np.where(np.arange(12) == 3, -np.inf, y))
    with pytest.raises(ValueError, match="at least one finite score"):
        model.fit(X, np.full(12, np.nan))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, y, groups=groups[:-1])
    model.fit(X, y, groups=groups)
    with pytest.raises(ValueError, match="latents of shape \\(n, 8\\), got \\(12, 3\\)"):
        model.inverse_transform(np.zeros((12, 3)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latent_dim", 0),
        ("n_members", 1),
        ("hidden_dim", 2.5),
        ("n_steps", 0),
        ("learning_rate", 0.0),
        ("squash_scale", np.nan),
        ("weight_decay", -1.0),
        ("input_noise", np.inf),
        ("floor", -np.inf),
    ],
)
def test_parameters_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must .* but got"):
        AeLLERegressor(**{name: value}).fit(np.zeros((2, 2)), np.zeros(2))


def test_works_in_a_grid_search() -> None:
    X, y, _ = spectra_and_scores(6, 12)
    search = GridSearchCV(
        AeLLERegressor(n_steps=20, random_state=0), {"latent_dim": [1, 4]}, cv=3
    ).fit(X, y)
    assert search.best_params_["latent_dim"] in (1, 4)
    refit = clone(search.best_estimator_).fit(X, y)
    np.testing.assert_array_equal(refit.predict(X), search.predict(X))
    assert list(refit.get_feature_names_out()[:1]) == ["aelleregressor0"]


@pytest.mark.slow
def test_out_of_fold_predictions_from_noise_rank_nothing_in_either_direction() -> None:
    correlations = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        spectra = -np.sort(rng.exponential(0.3, (24, 32)), axis=1)
        scores = rng.standard_normal(24)
        model = AeLLERegressor(random_state=seed).fit(spectra, scores)
        correlations.append(spearmanr(model.out_of_fold_prediction_, scores).statistic)
    # The standard error of the mean of 60 is .027.
    assert abs(np.mean(correlations)) < 0.09
