"""What has happened to a study, as far as its storage can tell."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import Literal

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_aelle.decisions.front import FORECASTS_PREFIX
from optuna_aelle.decisions.front import FORECASTS_VERSION
from optuna_aelle.decisions.front import read_front_forecast
from optuna_aelle.decisions.speech import SPEECH_PREFIX
from optuna_aelle.decisions.speech import read_speech
from optuna_aelle.decisions.verdict import VERDICT_KEY
from optuna_aelle.decisions.verdict import VERDICT_VERSION
from optuna_aelle.decisions.verdict import read_verdict
from optuna_aelle.prediction.forecast import FORECAST_PREFIX
from optuna_aelle.prediction.forecast import FORECAST_VERSION
from optuna_aelle.prediction.forecast import read_forecast
from optuna_aelle.trials.attributes import FIT_SECONDS_KEY
from optuna_aelle.trials.attributes import SPECTRUM_PREFIX
from optuna_aelle.trials.attributes import SPECTRUM_VERSION
from optuna_aelle.trials.attributes import check_spectrum
from optuna_aelle.trials.attributes import failed_attempts
from optuna_aelle.trials.attributes import read_fit_seconds
from optuna_aelle.trials.continuation import CHECKPOINTS_KEY
from optuna_aelle.trials.continuation import CONTINUATION_VERSION
from optuna_aelle.trials.continuation import CONTINUES_KEY
from optuna_aelle.trials.continuation import check_checkpoints
from optuna_aelle.trials.continuation import check_continues
from optuna_aelle.trials.continuation import one_a_network
from optuna_aelle.trials.objectives import VALUES_PREFIX
from optuna_aelle.trials.objectives import VALUES_VERSION
from optuna_aelle.trials.objectives import read_values
from optuna_aelle.trials.payloads import NewerSchema
from optuna_aelle.trials.payloads import check_version
from optuna_aelle.trials.payloads import step_of
from optuna_aelle.trials.storage import every_trial
from optuna_aelle.trials.storage import keeps_order_of_reports
from optuna_aelle.trials.storage import seconds_since_heartbeat
from optuna_aelle.trials.storage import study_system_attributes

Level = Literal["ok", "note", "problem"]

# More numbers of trials than these are counted.
_MOST_SHOWN = 8
# A trial that runs so many times as long as the longest that ended, and no less than so many
# seconds, is taken to have lost its worker.
_TIMES_THE_LONGEST = 3.0
_LEAST_SECONDS = 600.0
# Renamed in Optuna 4.9.
_RETRY = (
    "RetryHeartbeatStaleTrialCallback"
    if hasattr(optuna.storages, "RetryHeartbeatStaleTrialCallback")
    else "RetryFailedTrialCallback"
)
# Clocks of machines differ by less.
_SKEW = datetime.timedelta(minutes=1)


@dataclass(frozen=True)
class Finding:
    """One thing that a storage tells of its study.

    Attributes:
        level: ``"ok"``, ``"note"`` for what happens in long studies, or ``"problem"``.
        subject: What it is about, in a word or two.
        message: What was found.
        advice: What to do; empty where there is nothing to do.
    """

    level: Level
    subject: str
    message: str
    advice: str = ""


def diagnose(study: Study, *, now: datetime.datetime | None = None) -> list[Finding]:
    """What has happened to a study: failures, lost workers, damage, clocks, odd values.

    Nothing is written, and what cannot be read is told instead of raised.

    Args:
        study: Of any storage.
        now: The time, as trials note it: without a time zone. By default this machine's.

    Example:
        >>> from optuna_aelle.decisions.diagnosis import diagnose
        >>> [finding.message for finding in diagnose(study) if finding.level == "problem"]
    """
    trials = every_trial(study)
    now = now or datetime.datetime.now()
    return [
        *_states(trials),
        *_lost_workers(study, trials, now),
        *_attributes(study, trials),
        *_checkpoints(trials),
        *_continued_twice(trials),
        *_clocks(trials, now),
        *_values(trials),
        *_steps(trials, keeps_order_of_reports(study)),
    ]


def _states(trials: Sequence[FrozenTrial]) -> Iterator[Finding]:
    counts = Counter(trial.state for trial in trials)
    told = ", ".join(f"{n} {state.name.lower()}" for state, n in sorted(counts.items()))
    yield Finding("ok", "trials", f"{len(trials)} in all{f': {told}' if told else ''}.")
    failed = [trial.number for trial in trials if trial.state == TrialState.FAIL]
    if failed:
        ended = sum(n for state, n in counts.items() if state.is_finished())
        often = len(failed) > ended / 2
        yield Finding(
            "problem" if often else "note",
            "failed trials",
            f"{_numbers(failed)} failed{', most of those that ended' if often else ''}.",
            "The log of the worker says why; trials that lost their worker are told by the "
            "heartbeat of the storage.",
        )
    retries = [trial.number for trial in trials if failed_attempts(trial)]
    if retries:
        yield Finding(
            "note",
            "retried trials",
            f"{_numbers(retries)} retried a trial whose worker was lost; spectra and verdicts "
            "of the attempt that failed are left out unless its curve was kept, too.",
        )


def _lost_workers(
    study: Study, trials: Sequence[FrozenTrial], now: datetime.datetime
) -> Iterator[Finding]:
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    beats, limit = seconds_since_heartbeat(study) if running else ({}, None)
    durations = [t.duration.total_seconds() for t in trials if t.duration is not None]
    longest = max(_TIMES_THE_LONGEST * max(durations, default=0.0), _LEAST_SECONDS)
    moments = [t.datetime_start for t in trials] + [t.datetime_complete for t in trials]
    latest = max([now, *(moment for moment in moments if moment is not None)])
    silent, old = [], []
    for trial in running:
        if trial.number in beats:
            if beats[trial.number] > (limit or longest):
                silent.append(trial.number)
        elif (latest - (trial.datetime_start or latest)).total_seconds() > longest:
            old.append(trial.number)
    if silent:
        yield Finding(
            "problem",
            "lost workers",
            f"{_numbers(silent)} should be running, but the heartbeat has stopped.",
            "The next worker that opens the storage with the same heartbeat_interval fails them, "
            f"and retries them where it has a {_RETRY}.",
        )
    if old:
        yield Finding(
            "problem",
            "lost workers",
            f"{_numbers(old)} should be running, but started more than {longest:.0f} s ago, "
            "longer than any trial that ended took: the worker was probably killed.",
            "If no worker runs: study.tell(NUMBER, state=optuna.trial.TrialState.FAIL). Open the "
            "storage with a heartbeat_interval, and it is done for you.",
        )


# What the attributes of a trial may be: all keys that begin so, or this one.
_Check = Callable[[Any], object]
_KINDS: tuple[tuple[str, int | None, _Check], ...] = (
    (SPECTRUM_PREFIX, SPECTRUM_VERSION, check_spectrum),
    (FORECAST_PREFIX, FORECAST_VERSION, read_forecast),
    (FORECASTS_PREFIX, FORECASTS_VERSION, read_front_forecast),
    (VALUES_PREFIX, VALUES_VERSION, read_values),
    (VERDICT_KEY, VERDICT_VERSION, read_verdict),
    (CHECKPOINTS_KEY, CONTINUATION_VERSION, check_checkpoints),
    (CONTINUES_KEY, CONTINUATION_VERSION, check_continues),
    (FIT_SECONDS_KEY, None, read_fit_seconds),
)


def _attributes(study: Study, trials: Sequence[FrozenTrial]) -> Iterator[Finding]:
    damaged: dict[str, list[str]] = {}
    newer: dict[str, list[str]] = {}
    count = 0

    def look(where: str, key: str, payload: Any, version: int | None, check: _Check) -> None:
        nonlocal count
        count += 1
        try:
            check(payload if version is None else check_version(payload, version))
        except NewerSchema:
            newer.setdefault(key, []).append(where)
        except ValueError as error:
            damaged.setdefault(f"{key} ({error})", []).append(where)

    for trial in trials:
        # Spectra may lie in user attributes, too; under other keys these are for people alone.
        seen = {k: x for k, x in trial.user_attrs.items() if k.startswith(SPECTRUM_PREFIX)}
        for key, payload in {**seen, **trial.system_attrs}.items():
            for prefix, version, check in _KINDS:
                if not _is_of(key, prefix) or payload is None:
                    continue
                at = f"trial {trial.number}"
                if prefix.endswith(":"):
                    check = _at_a_step(key, prefix, check)
                look(at, prefix.rstrip(":"), payload, version, check)
    for key, payload in study_system_attributes(study).items():
        if key.startswith(SPEECH_PREFIX):
            look("the study", SPEECH_PREFIX.rstrip(":"), payload, None, read_speech)
    for what, places in damaged.items():
        yield Finding(
            "problem",
            "damaged attributes",
            f"{what}: {_places(places)}.",
            "They are left out, as if they had never been written; no other trial is touched.",
        )
    for key, places in newer.items():
        yield Finding(
            "problem",
            "newer schema",
            f"{key}: {_places(places)}: written by a newer optuna-aelle, and left out.",
            "Upgrade optuna-aelle here: pip install -U optuna-aelle.",
        )
    if not damaged and not newer:
        yield Finding("ok", "attributes", f"All {count} of optuna-aelle can be read.")


def _at_a_step(key: str, prefix: str, check: _Check) -> _Check:
    def both(payload: Any) -> None:
        step_of(key, prefix)
        check(payload)

    return both


def _is_of(key: str, prefix: str) -> bool:
    return key.startswith(prefix) if prefix.endswith(":") else key == prefix


def _checkpoints(trials: Sequence[FrozenTrial]) -> Iterator[Finding]:
    kept = {t.number: t for t in trials if _payload(t, CHECKPOINTS_KEY).get("saved")}
    if kept:
        last = one_a_network([t for t in trials if t.number in kept])
        stopped = [t for t in last if t.state == TrialState.PRUNED]
        yield Finding(
            "ok",
            "checkpoints",
            f"{len(kept)} trials list checkpoints, {len(stopped)} of them were stopped and may "
            "go on.",
        )


def _continued_twice(trials: Sequence[FrozenTrial]) -> Iterator[Finding]:
    origins: dict[int, list[int]] = {}
    for trial in trials:
        continues = _payload(trial, CONTINUES_KEY)
        # One that failed has made place for another.
        if not continues or continues.get("given_up") or trial.state == TrialState.FAIL:
            continue
        origins.setdefault(continues["trial"], []).append(trial.number)
    for origin, numbers in origins.items():
        if len(numbers) > 1:
            yield Finding(
                "note",
                "continued twice",
                f"Trial {origin} was continued by {_numbers(numbers)}.",
                "The one with the lowest number counts; the others are networks of their own.",
            )


def _clocks(trials: Sequence[FrozenTrial], now: datetime.datetime) -> Iterator[Finding]:
    backwards = [t.number for t in trials if t.duration is not None and _seconds(t) < 0.0]
    ahead = [t.number for t in trials if t.datetime_start and t.datetime_start > now + _SKEW]
    if backwards:
        yield Finding(
            "problem",
            "clocks",
            f"{_numbers(backwards)} ended before they began: what they cost counts as nothing.",
            "A worker's clock was set back, or machines differ: run NTP on all of them.",
        )
    if ahead:
        yield Finding(
            "problem",
            "clocks",
            f"{_numbers(ahead)} began in the future, as this machine's clock has it.",
            "Give all workers one time zone and run NTP; no decision depends on the clock.",
        )


def _seconds(trial: FrozenTrial) -> float:
    return 0.0 if trial.duration is None else trial.duration.total_seconds()


def _values(trials: Sequence[FrozenTrial]) -> Iterator[Finding]:
    broken = [
        t.number for t in trials if not all(map(math.isfinite, t.intermediate_values.values()))
    ]
    infinite = [t.number for t in trials if t.values and not all(map(math.isfinite, t.values))]
    if broken:
        yield Finding(
            "note",
            "values",
            f"{_numbers(broken)} reported NaN or an infinity on the way.",
            "Such a curve counts as worse than any other; a training that recovers is forgiven.",
        )
    if infinite:
        yield Finding(
            "note",
            "values",
            f"{_numbers(infinite)} ended in an infinity: no prediction learns from them.",
            "Return a finite value, or raise optuna.TrialPruned.",
        )


def _steps(trials: Sequence[FrozenTrial], in_order: bool) -> Iterator[Finding]:
    disordered = [
        t.number
        for t in trials
        if in_order and list(t.intermediate_values) != sorted(t.intermediate_values)
    ]
    negative = [t.number for t in trials if min(t.intermediate_values, default=0) < 0]
    if disordered:
        yield Finding(
            "note",
            "steps",
            f"{_numbers(disordered)} reported steps out of order: curves are read in order of "
            "step.",
            "Decisions made on the way saw less than the curve shows now.",
        )
    if negative:
        yield Finding(
            "problem",
            "steps",
            f"{_numbers(negative)} have reports at steps below 0, which were imported.",
            "Count steps from 0 or from 1.",
        )


def _payload(trial: FrozenTrial, key: str) -> Mapping[str, Any]:
    """What an attribute holds; nothing where it is damaged, which is told elsewhere."""
    checks = {CHECKPOINTS_KEY: check_checkpoints, CONTINUES_KEY: check_continues}
    try:
        payload = check_version(trial.system_attrs.get(key), CONTINUATION_VERSION)
        checks[key](payload)
    except ValueError:
        return {}
    return payload


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_MOST_SHOWN]))
    more = len(numbers) - _MOST_SHOWN
    name = "Trial" if len(numbers) == 1 else "Trials"
    return f"{name} {shown}{f' and {more} more' if more > 0 else ''}"


def _places(places: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(places))
    more = len(distinct) - _MOST_SHOWN
    shown = ", ".join(distinct[:_MOST_SHOWN])
    return f"{shown}{f' and {more} more' if more > 0 else ''}"
