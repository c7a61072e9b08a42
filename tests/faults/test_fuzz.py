"""Whatever lies in a database or a file: it is read, or told to be damaged, and nothing else.

In a thousand cases each; AELLE_FUZZ_CASES=10000 makes ten times as many.
"""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from optuna_aelle import AeLLERegressor
from optuna_aelle import AeLLEWarning
from optuna_aelle import Prior
from optuna_aelle import RecordedTrials
from optuna_aelle import decode_spectra
from optuna_aelle import decode_values
from optuna_aelle._warnings import forget_warnings
from optuna_aelle.decisions.diagnosis import diagnose
from optuna_aelle.decisions.front import decode_front_forecasts
from optuna_aelle.decisions.verdict import decode_verdict
from optuna_aelle.fingerprint import FINGERPRINT_LENGTH
from optuna_aelle.prediction.forecast import decode_forecasts
from optuna_aelle.trials.attributes import encode_spectrum
from optuna_aelle.trials.attributes import failed_attempts
from optuna_aelle.trials.attributes import fit_seconds
from optuna_aelle.trials.attributes import spectrum_seconds
from optuna_aelle.trials.continuation import decode_checkpoints
from optuna_aelle.trials.continuation import furthest
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.trials.cost import trained_steps
from tests.conftest import made_trials

pytestmark = pytest.mark.slow

N_CASES = int(os.environ.get("AELLE_FUZZ_CASES", "1000"))
FUZZ = settings(
    max_examples=N_CASES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=True,
)

NAMES = ["version", "exponents", "n", "trial", "after", "seconds", "standing", "value", "values"]
NAMES += ["bar", "share", "chance", "skill", "spoke", "by", "step", "rank", "n_compared", "rung"]
NAMES += ["risk", "n_epochs", "saved", "epoch", "reports", "artifact", "given_up", "rival"]

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([-1, 0, 1, 5, 10**400, -(10**400), 2**53, 2**63, 1e308, True, None]),
)
leaves = st.one_of(numbers, st.text(max_size=4), st.sampled_from(["NaN", "-inf", "1e5", "\x00"]))
junk = st.one_of(
    leaves,
    st.lists(leaves, max_size=3),
    st.dictionaries(st.sampled_from(NAMES), st.one_of(leaves, st.lists(leaves, max_size=3))),
)
# Sound payloads of each kind, of which some fields are replaced or missing.
spectrum = encode_spectrum(-np.arange(1.0, 9.0), step=7, seconds=0.1)["aelle:spectrum:7"]
SOUND: dict[str, dict[str, Any]] = {
    "aelle:spectrum:": {**spectrum, "trial": 7, "after": [3, 0.8]},
    "aelle:forecast:": {
        "version": 1,
        "standing": [-0.8, 0.4],
        "value": [0.87, 0.04],
        "bar": [0.84, 0.42],
        "share": 0.2,
        "chance": 4e-5,
        "skill": [41.2, 0.61, 0.48],
        "spoke": ["params"],
        "trial": 7,
    },
    "aelle:forecasts:": {
        "version": 1,
        "values": [[0.8, 0.1], [0.7, 0.1]],
        "rival": 3,
        "rival_values": [0.1, 0.2],
        "chance": 0.1,
        "skill": [None, [41.2, 0.61, 0.48]],
        "trial": 7,
    },
    "aelle:values:": {"version": 1, "values": [0.8, None], "trial": 7},
    "aelle:verdict": {"version": 1, "by": "AeLLE", "step": 3, "value": 0.6, "rank": 9, "trial": 7},
    "aelle:checkpoints": {
        "version": 1,
        "n_epochs": 27,
        "saved": [{"epoch": 3, "reports": 4, "artifact": "a-trial-7-epoch-3-0123abcd.pt"}],
    },
    "aelle:continues": {"version": 1, "trial": 5, "step": 3, "given_up": False},
    "aelle:fit_seconds": {"seconds": 0.4, "trial": 7},
}
steps = st.one_of(st.integers(-3, 9).map(str), st.text(max_size=4), st.just("9" * 5000))


def changed(kind: str, step: str, fields: dict[str, Any], instead: Any) -> tuple[str, Any]:
    key = f"{kind}{step}" if kind.endswith(":") else kind
    return key, ({**SOUND[kind], **fields} if instead is None else instead)


attributes = st.lists(
    st.builds(
        changed,
        st.sampled_from(sorted(SOUND)),
        steps,
        st.dictionaries(st.sampled_from(NAMES), junk, max_size=2),
        st.one_of(st.none(), st.none(), st.none(), junk),
    ),
    max_size=3,
).map(dict)
DECODERS: tuple[Callable[[optuna.trial.FrozenTrial], object], ...] = (
    decode_spectra,
    decode_verdict,
    decode_forecasts,
    decode_front_forecasts,
    decode_values,
)
others = st.fixed_dictionaries({}, optional={"failed_trial": junk, "retry_history": junk})
curves = st.dictionaries(st.integers(0, 5), st.floats(), max_size=4)


@FUZZ
@given(attributes, others, st.booleans(), curves)
def test_attributes(
    damaged: dict[str, Any], retried: dict[str, Any], shown: bool, curve: dict[int, float]
) -> None:
    known = {"aelle:spectrum:7": spectrum}
    trial = optuna.trial.create_trial(
        state=optuna.trial.TrialState.PRUNED,
        intermediate_values=curve,
        user_attrs=damaged if shown else {},
        system_attrs={**({} if shown else damaged), **retried, **known},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spectra = decode_spectra(trial)
        for found in spectra.values():
            assert found.shape == (FINGERPRINT_LENGTH,)
            assert not np.isnan(found).any()
        # Damage beside it does not hide what is sound.
        assert 7 in spectra
        assert list(spectra) == sorted(spectra)
        for decode in DECODERS:
            decode(trial)
        decode_checkpoints(trial)
        failed_attempts(trial)
        assert fit_seconds(trial) >= 0.0
        assert spectrum_seconds(trial) >= 0.0
        for read in (furthest, one_a_network, trained_steps):
            read([trial])


@settings(FUZZ, max_examples=N_CASES // 10)
@given(attributes, others)
def test_a_diagnosis_of_the_same(damaged: dict[str, Any], retried: dict[str, Any]) -> None:
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(value=0.0, system_attrs={**damaged, **retried}))
    forget_warnings()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for decode in (*DECODERS, decode_checkpoints):
            decode(study.trials[0])
        one_a_network(study.trials)
    left_out = any(issubclass(w.category, AeLLEWarning) for w in caught)
    told = {"damaged attributes", "newer schema"} & {f.subject for f in diagnose(study)}
    # Seconds that cannot be read are left out without a warning.
    assert bool(told) == left_out or (told and "aelle:fit_seconds" in damaged)


def reads_or_tells(load: Callable[[Path], Any], path: Path, content: bytes) -> Any:
    """What a file gives; None where it is told in our words that it is damaged."""
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return load(path)
        except ValueError as error:
            told = str(error)
    assert told.startswith("Expected ")
    assert str(path) in told
    return None


Damage = Callable[[bytes], bytes]
places = st.floats(0.0, 1.0, exclude_max=True)


def damages() -> st.SearchStrategy[Damage]:
    """Bytes that are changed, cut off, doubled or put in."""

    def flip(at: float, mask: int) -> Damage:
        def change(content: bytes) -> bytes:
            changed = bytearray(content)
            changed[int(at * len(content))] ^= mask
            return bytes(changed)

        return change

    return st.one_of(
        st.builds(flip, places, st.integers(1, 255)),
        st.builds(lambda at: lambda c: c[: int(at * len(c))], places),
        st.builds(lambda at: lambda c: c[int(at * len(c)) :], places),
        st.builds(
            lambda at, more: lambda c: c[: int(at * len(c))] + more + c[int(at * len(c)) :],
            places,
            st.binary(min_size=1, max_size=9),
        ),
    )


def mutated(arrays: dict[str, Any], changes: list[tuple[int, int, float, Any]]) -> bytes:
    """The archive of arrays of which some were changed in one way each."""
    arrays = dict(arrays)
    for which, how, at, value in changes:
        name = sorted(arrays)[which % len(arrays)]
        array = arrays[name]
        change = _other_metadata if name == "metadata" else _other_array
        # What cannot be made is no case, such as text in place of a number.
        with (
            suppress(LookupError, OverflowError, TypeError, ValueError),
            np.errstate(all="ignore"),
        ):
            arrays[name] = change(array, how, at, value)
        if how == 0:
            del arrays[name]
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Object arrays are pickled, as whoever means harm would have it.
        np.savez(file, **arrays)
    return file.getvalue()


def _other_array(array: np.ndarray, how: int, at: float, value: Any) -> np.ndarray:
    array = array.copy()
    flat = array.reshape(-1)
    if how == 1 and flat.size:
        flat[int(at * flat.size)] = value
        return array
    if how == 2:
        return array[: int(at * len(array))] if array.ndim else array.reshape(1)
    if how == 3:
        return array.astype([np.float64, np.int8, np.complex128, "U9", bool][int(at * 5)])
    if how == 4:
        return np.array([value, {}], dtype=object)
    if how == 5:
        return flat
    if how == 6:
        return np.concatenate([array, array]) if array.ndim else array
    return array


def _other_metadata(array: np.ndarray, how: int, at: float, value: Any) -> np.ndarray:
    text = str(array)
    metadata = json.loads(text)
    if how == 2:
        return np.array(text[: int(at * len(text))])
    if how == 3:
        return np.array([text])
    holder, key = metadata, sorted(metadata)[int(at * len(metadata))]
    if how >= 4 and isinstance(holder[key], dict) and holder[key]:
        holder, key = holder[key], sorted(holder[key])[0]
    if how == 6:
        del holder[key]
    else:
        holder[key] = value
    return np.array(json.dumps(metadata, default=str))


changes = st.lists(
    st.tuples(st.integers(0, 99), st.integers(0, 6), places, junk), min_size=1, max_size=3
)


def arrays_of(content: bytes) -> dict[str, Any]:
    file = np.load(io.BytesIO(content), allow_pickle=False)
    return {name: file[name] for name in file.files}


def fuzz(load: Callable[[Path], Any], path: Path, use: Callable[[Any], object]) -> None:
    """Read a sound file in many damaged ways, and use what could be read."""
    sound = path.read_bytes()
    arrays = arrays_of(sound)
    # Checksums would find most damage: those of a file that is not compressed are set anew.
    plain = mutated(arrays, [])
    outcomes = {True: 0, False: 0}

    def note(content: bytes) -> None:
        found = reads_or_tells(load, path, content)
        outcomes[found is None] += 1
        if found is not None:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                use(found)

    @FUZZ
    @given(st.one_of(damages().map(lambda d: (d, [])), changes.map(lambda c: (None, c))))
    def harm(how: tuple[Damage | None, Any]) -> None:
        damage, changed = how
        if damage is None:
            note(mutated(arrays, changed))
        else:
            note(_sealed(damage(plain)))

    harm()
    # It has found damage, and what is sound in spite of it.
    assert min(outcomes.values()) > 0, outcomes


def _sealed(content: bytes) -> bytes:
    """The archive with the checksums of what it holds now, if it is one still."""
    file = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
            for member in old.infolist():
                with old.open(member) as stream:
                    # Its checksum is not looked at.
                    stream._expected_crc = None  # type: ignore[attr-defined]
                    new.writestr(member.filename, stream.read())
    except Exception:
        return content
    return file.getvalue()


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    study = optuna.create_study(study_name="fuzz")
    study.add_trials(made_trials(5))
    recorded = RecordedTrials.from_study(study)
    recorded.save(path)

    def use(found: RecordedTrials) -> None:
        assert len(found.finals) == len(found.trained_steps) == len(found)
        for trial in found.trials:
            decode_spectra(trial)
        assert found.steps

    fuzz(RecordedTrials.load, path, use)


def test_priors(tmp_path: Path) -> None:
    path = tmp_path / "my.prior"
    study = optuna.create_study(study_name="fuzz")
    study.add_trials(made_trials(9))
    Prior.learn([study], base=None).save(path)
    asked = made_trials(3, seed=1)

    def use(found: Prior) -> None:
        mean, std = found.predict(asked)
        assert mean.shape == std.shape == (3,)

    fuzz(Prior.load, path, use)


def test_regressors(tmp_path: Path) -> None:
    path = tmp_path / "regressor.npz"
    rng = np.random.default_rng(0)
    spectra = -np.sort(rng.random((12, 6)))[:, ::-1].cumsum(axis=1)
    AeLLERegressor(latent_dim=2, n_members=2, n_steps=3, random_state=0).fit(
        spectra, rng.random(12)
    ).save(path)

    def use(found: AeLLERegressor) -> None:
        assert np.isfinite(found.predict(spectra[:2, : found.n_features_in_])).all()

    fuzz(AeLLERegressor.load, path, use)
