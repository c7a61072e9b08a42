"""Small systems, one to each lane of a vector, against the same one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

pytest.importorskip("numba")
from optuna_aelle.lyapunov.compiled import functions
from optuna_aelle.lyapunov.compiled.tiles import LANES


@st.composite
def small_systems(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `functions.carry` and `functions.carry_lanes` but for the frames."""
    size, n_gates = draw(st.integers(1, 16)), draw(st.integers(1, 4))
    n_models, n_given = draw(st.integers(1, 2)), n_gates + draw(st.integers(0, 1))
    n_systems = n_models * draw(st.integers(1, 10))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    gates_t = rng.normal(size=(n_models, n_gates, size, size)) * draw(st.sampled_from([0.1, 1e40]))
    scales = rng.normal(size=(draw(st.integers(1, 5)), n_systems, n_given, size))
    return {
        "gates_t": gates_t,
        "coefficients": scales,
        "systems": tuple(sorted(draw(st.tuples(*[st.integers(0, n_systems)] * 2)))),
        "n_vectors": draw(st.integers(1, size)),
        "size": size,
    }


@given(small_systems())
@settings(max_examples=200, deadline=None)
def test_systems_in_lanes_are_those_one_by_one(given: dict[str, Any]) -> None:
    n_systems, k, size = given["coefficients"].shape[1], given["n_vectors"], given["size"]
    shape = (n_systems, -(-k // functions.ROWS) * functions.ROWS, -(-size // LANES) * LANES)
    frame = np.zeros(shape)
    frame[:, :k, :size] = np.random.default_rng(0).normal(size=(n_systems, k, size))
    orders = np.tile(np.arange(size), (n_systems, 1))
    alone, together = np.zeros((2, n_systems, k))
    frames = frame.copy()
    functions.carry(
        functions.MIXED, frames=frames, orders=orders, triangular=False, sums=alone, **given
    )
    functions.carry_lanes(frames=frame, sums=together, **given)
    np.testing.assert_allclose(together, alone, rtol=1e-9, atol=1e-6)
    outside = np.ones(n_systems, bool)
    outside[slice(*given["systems"])] = False
    np.testing.assert_array_equal(together[outside], 0.0)
    # The frames span the same: either way goes on with those of the other.
    functions.carry(
        functions.MIXED, frames=frame, orders=orders, triangular=False, sums=together, **given
    )
    functions.carry_lanes(frames=frames, sums=alone, **given)
    np.testing.assert_allclose(together, alone, rtol=1e-9, atol=1e-6)


def test_a_lane_that_dies_dies_alone() -> None:
    """Its Jacobian is zero at one step, and it goes on from some frame."""
    frames = np.zeros((LANES, functions.ROWS, LANES))
    frames[:, 0, 0] = frames[:, 1, 1] = 1.0
    scales = np.full((3, LANES, 1, 3), 2.0)
    scales[1, 2] = 0.0
    sums = np.zeros((LANES, 2))
    functions.carry_lanes(np.eye(3)[None, None], scales, (0, LANES), frames, 2, 3, sums)
    np.testing.assert_array_equal(sums[2], -np.inf)
    np.testing.assert_allclose(np.delete(sums, 2, axis=0), 3.0 * np.log(2.0))
    assert np.linalg.matrix_rank(frames[2, :2]) == 2


def test_a_lane_that_is_nan_spoils_itself_alone() -> None:
    frame = np.zeros((LANES, functions.ROWS, LANES))
    frame[:, 0, 0] = frame[:, 1, 1] = 1.0
    scales = np.ones((1, LANES, 1, 2))
    scales[0, 2] = np.nan
    sums = np.zeros((LANES, 2))
    gates_t = np.array([[[[1.0, 1.0], [0.0, 1.0]]]])
    functions.carry_lanes(gates_t, scales, (0, LANES), frame, 2, 2, sums)
    assert np.isnan(sums[2]).any()
    np.testing.assert_array_equal(np.delete(sums, 2, axis=0), 0.0)
