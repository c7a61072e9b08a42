"""Why a trial was stopped: data on the trial, and the one sentence that people read.

``aelle:verdict``, a system attribute, version 1::

    {"version": 1, "by": "SuccessiveHalvingPruner", "step": 3, "value": 0.61, "bar": 0.55,
     "rank": 9, "n_compared": 15, "rung": 1, "risk": null, "trial": 7}

``by`` names the pruner, or is `AELLE` where a forecast decided, which then lies beside it
(`optuna_aelle.prediction.forecast`). ``value`` is what the trial had, ``bar`` what was asked for
(null where the pruner does not tell), ``rank`` its place among the ``n_compared`` trials that came
as far, itself included; ``trial`` the trial that it was written for, since a retry inherits it.
With several objectives ``values`` has all of them, in place of ``value``; a forecast that decided
lies beside it, too (`optuna_aelle.decisions.front`).
The sentence is made from this by `Verdict.sentence` and never read back; ``aelle:decision``, a
user attribute, shows it in the dashboard.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import numpy as np
from optuna.pruners import SuccessiveHalvingPruner
from optuna.study import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from scipy.stats import norm

from optuna_aelle.decisions.front import FrontForecast
from optuna_aelle.decisions.front import decode_front_forecasts
from optuna_aelle.prediction.curves import values_of_peers
from optuna_aelle.prediction.forecast import CENTRAL_80
from optuna_aelle.prediction.forecast import Forecast
from optuna_aelle.prediction.forecast import decode_forecasts
from optuna_aelle.trials.attributes import UNTRAINED_STEP
from optuna_aelle.trials.attributes import AnyTrial
from optuna_aelle.trials.attributes import failed_attempts
from optuna_aelle.trials.attributes import warn_of_attribute
from optuna_aelle.trials.payloads import check_version
from optuna_aelle.trials.payloads import optional
from optuna_aelle.trials.payloads import real
from optuna_aelle.trials.payloads import text
from optuna_aelle.trials.payloads import whole
from optuna_aelle.trials.storage import every_trial
from optuna_aelle.trials.storage import latest
from optuna_aelle.trials.storage import stored_trial

# Among the attributes for people this one sorts first.
DECISION_KEY = "aelle:decision"
VERDICT_KEY = "aelle:verdict"
VERDICT_VERSION = 1
AELLE = "AeLLE"
# By Pareto fronts, in studies with several objectives.
NON_DOMINATED_HALVING = "NonDominatedHalving"

_RUNG = re.compile(r"completed_rung_(\d+)")


@dataclass(frozen=True)
class Verdict:
    """Why a trial was stopped.

    Attributes:
        by: The class of the pruner, or `AELLE` for a forecast.
        step: The last reported one; −1 before training.
        value: What the trial had reported last, in units of the objective.
        bar: What it would have had to report, where the pruner tells.
        rank: Its place among those that came as far, 1 is the best.
        n_compared: How many those are, itself included.
        rung: Of successive halving, counted from 0.
        risk: A forecast stops a trial whose chance is below this.
        forecast: What decided, where ``by`` is `AELLE`.
        rival: The standing that another network is expected to reach, where the trial was stopped
            to let that one train.
        rival_std: How uncertain that is.
        values: What the trial had reported last, where there are several objectives.
        front: What decided there, where ``by`` is `AELLE`.

    Example:
        >>> print(decode_verdict(study.trials[7]).sentence())
        step ...: SuccessiveHalvingPruner, rung ...: ... is place ...; ... would have gone on
    """

    by: str
    step: int
    value: float | None = None
    bar: float | None = None
    rank: int | None = None
    n_compared: int | None = None
    rung: int | None = None
    risk: float | None = None
    forecast: Forecast | None = None
    rival: float | None = None
    rival_std: float | None = None
    values: tuple[float, ...] | None = None
    front: FrontForecast | None = None

    def sentence(self) -> str:
        """The verdict in one line; chance and interval are on one scale, that of the standings."""
        moment = "before training" if self.step == UNTRAINED_STEP else f"step {self.step}"
        if self.forecast is not None and self.rival is not None:
            return f"{moment}: {_of_rival(self.forecast, self.rival, self.rival_std or 0.0)}"
        if self.forecast is not None:
            return f"{moment}: {_of_forecast(self.forecast, self.risk)}"
        if self.front is not None:
            return f"{moment}: {_of_front(self.front, self.risk)}"
        rung = "" if self.rung is None else f", rung {self.rung}"
        parts = []
        if self.values is not None and self.rank is not None:
            parts.append(
                f"of the {self.n_compared} that came as far, {self.rank - 1} lie in better Pareto "
                f"fronts than {_several(self.values)}"
            )
        elif self.value is not None and self.rank is not None:
            value, _ = _told_apart(self.value, self.bar)
            parts.append(f"{value} is place {self.rank} of {self.n_compared}")
        elif self.step != UNTRAINED_STEP and self.values is None:
            parts.append("what was reported is not a finite number")
        if self.bar is not None and self.value is not None:
            parts.append(f"{_told_apart(self.value, self.bar)[1]} would have gone on")
        reason = f": {'; '.join(parts)}" if parts else ""
        return f"{moment}: {self.by}{rung}{reason}"


def _of_rival(forecast: Forecast, rival: float, rival_std: float) -> str:
    low, high = forecast.percentile_interval
    middle, least, most = norm.cdf(rival + rival_std * np.array([0.0, -CENTRAL_80, CENTRAL_80]))
    return (
        f"AeLLE expects it to end ahead of {forecast.percentile:.0%} of what could be trained "
        f"(80 %: {low:.0%} to {high:.0%}), and another network, which may end further ahead, of "
        f"{middle:.0%} ({least:.0%} to {most:.0%})"
    )


def _of_forecast(forecast: Forecast, risk: float | None) -> str:
    # What decided comes first: the dashboard cuts long lines off.
    if forecast.share is None:
        bar = f"beat the best ({forecast.bar_value:.4g})"
    else:
        bar = f"reach the best {forecast.share:.0%} (about {forecast.bar_value:.4g})"
    limit = "" if risk is None else f" (below {_percent(risk)})"
    low, high = forecast.percentile_interval
    return (
        f"AeLLE gives a chance of {_percent(forecast.chance)}{limit} to {bar}; expected: about "
        f"{forecast.value:.4g}, ahead of {forecast.percentile:.0%} of the trials (80 %: {low:.0%} "
        f"to {high:.0%}); from {' + '.join(forecast.spoke) or 'the mean'}"
    )


def _of_front(forecast: FrontForecast, risk: float | None) -> str:
    limit = "" if risk is None else f" (below {_percent(risk)})"
    expected = ", ".join(
        f"{mean:.4g}" if std == 0.0 else f"{mean:.4g} ± {std:.2g}" for mean, std in forecast.values
    )
    return (
        f"AeLLE gives a chance of at most {_percent(forecast.chance)}{limit} to beat trial "
        f"{forecast.rival} of the Pareto front {_several(forecast.rival_values)} in any "
        f"objective; expected: about ({expected})"
    )


def _several(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"


def _told_apart(value: float, bar: float | None) -> tuple[str, str]:
    """Both in as many digits as it takes, four at least."""
    if bar is None:
        return f"{value:.4g}", ""
    for digits in range(4, 16):
        texts = f"{value:.{digits}g}", f"{bar:.{digits}g}"
        if texts[0] != texts[1] or value == bar:
            break
    return texts


def _percent(share: float) -> str:
    return "under 0.1%" if share < 0.0005 else f"{share:.1%}"


def verdict_of_pruner(
    study: Study, trial: FrozenTrial, by: str, reduction_factor: int | None = None
) -> Verdict:
    """What there is to say where a pruner that is not ours has stopped a trial.

    Args:
        study: The study.
        trial: As the pruner saw it.
        by: The class of the pruner.
        reduction_factor: η, where it is successive halving: of n trials at a rung, n/η go on.
    """
    step = trial.last_step
    if step is None:
        return Verdict(by, UNTRAINED_STEP)
    value = trial.intermediate_values[step]
    if not math.isfinite(value):
        return Verdict(by, step)
    sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
    # Successive halving has just written what it compared.
    stored = stored_trial(study, trial)
    rungs = [int(found[1]) for key in stored.system_attrs if (found := _RUNG.fullmatch(key))]
    key = f"completed_rung_{max(rungs, default=-1)}"
    rung = max(rungs, default=None)
    halves = by == SuccessiveHalvingPruner.__name__
    if halves and rung is not None and stored.system_attrs[key] == value:
        # Those that reached the rung, as successive halving compared them; a bracket of Hyperband
        # compares some of them only.
        peers = [t.system_attrs[key] for t in every_trial(study) if key in t.system_attrs]
    else:
        rung = None
        peers = values_of_peers(every_trial(study), trial)
        peers.append(value)
    bar = None
    if rung is not None and reduction_factor is not None:
        last_to_go_on = max(len(peers) // reduction_factor, 1)
        bar = sorted(peers, key=lambda peer: -sign * peer)[last_to_go_on - 1]
    return Verdict(
        by,
        step,
        value=value,
        bar=bar,
        rank=1 + sum(sign * peer > sign * value for peer in peers),
        n_compared=len(peers),
        rung=rung,
    )


def encode_verdict(trial: FrozenTrial, verdict: Verdict) -> dict[str, Any]:
    """Turn a verdict into the system attribute of ``trial`` that holds it."""
    payload = {k: v for k, v in asdict(verdict).items() if k not in ("forecast", "front")}
    if verdict.values is None:
        del payload["values"]
    else:
        # JSON has no number that is not finite.
        payload["values"] = [v if math.isfinite(v) else None for v in verdict.values]
    return {VERDICT_KEY: {"version": VERDICT_VERSION, **payload, "trial": trial.number}}


def decode_verdict(trial: AnyTrial) -> Verdict | None:
    """Why a trial was stopped; None where it was not, or where only a failed attempt was."""
    stored = latest(trial)
    payload = None if stored is None else stored.system_attrs.get(VERDICT_KEY)
    if stored is None or payload is None:
        return None
    try:
        check_version(payload, VERDICT_VERSION)
        verdict = read_verdict(payload)
    except ValueError as error:
        warn_of_attribute(VERDICT_KEY, error)
        return None
    if payload.get("trial") in failed_attempts(stored):
        return None
    if verdict.by != AELLE:
        return verdict
    if verdict.values is not None:
        return replace(verdict, front=decode_front_forecasts(stored).get(verdict.step))
    return replace(verdict, forecast=decode_forecasts(stored).get(verdict.step))


def read_verdict(payload: Mapping[str, Any]) -> Verdict:
    """What the attribute holds, without the forecast that lies beside it.

    Raises:
        ValueError: It is damaged.
    """

    def count(name: str) -> int | None:
        return None if payload.get(name) is None else whole(payload, name)

    return Verdict(
        text(payload, "by"),
        whole(payload, "step", least=UNTRAINED_STEP),
        value=optional(payload, "value"),
        bar=optional(payload, "bar"),
        rank=count("rank"),
        n_compared=count("n_compared"),
        rung=count("rung"),
        risk=optional(payload, "risk"),
        rival=optional(payload, "rival"),
        rival_std=optional(payload, "rival_std"),
        values=_values(payload),
    )


def _values(payload: Mapping[str, Any]) -> tuple[float, ...] | None:
    values = payload.get("values")
    if values is None:
        return None
    if not isinstance(values, list | tuple):
        raise ValueError("its 'values' is no list")
    return tuple(math.nan if value is None else real(value, "values") for value in values)
