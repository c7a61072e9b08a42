"""Who races: the arms of `python -m benchmarks.race`, by the names in its results.

- Optuna's samplers and pruners, promotion and ours come from `optuna_aelle.backtest.arms`.
- Peers that Optuna does not ship, one more entry in `peer_arms`.
- Peers that are given the same past tables, one more in `transfer_arms`.
- What a plain forest makes of that past, in `reference_arms`: who claims knowledge must beat it.
- Ours with a part taken away, in `benchmarks.race.ablations`.
- Arms that must know their budget, in `planned_arms`; tests of the judge, in `judge_arms`; what
  takes too long to run unasked, in `slow_arms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import RandomSampler

from benchmarks.race.ablations import ablation_arms
from benchmarks.race.dyhpo import AS_PUBLISHED
from benchmarks.race.dyhpo import DyHPO
from benchmarks.race.forest import Feature
from benchmarks.race.forest import forest_without
from benchmarks.race.forest import past_of
from benchmarks.race.freeze_thaw import FreezeThaw
from benchmarks.race.syne import BoundingBox
from benchmarks.race.syne import Halving
from benchmarks.race.syne import QuantileTransfer
from benchmarks.race.syne import Transfer
from benchmarks.race.syne import ZeroShot
from benchmarks.race.syne import cqr_asha
from optuna_aelle.backtest.arms import DEFAULTS
from optuna_aelle.backtest.arms import OURS
from optuna_aelle.backtest.arms import Steps
from optuna_aelle.backtest.arms import search_arms
from optuna_aelle.backtest.judges import Oracle
from optuna_aelle.backtest.judges import coin
from optuna_aelle.backtest.pool import PriorRanking
from optuna_aelle.backtest.promotion import Promotion
from optuna_aelle.backtest.promotion import TopK
from optuna_aelle.backtest.race import ArmFactory
from optuna_aelle.backtest.race import NativeArm
from optuna_aelle.backtest.searches import Search
from optuna_aelle.trials.table import RecordedTrials

ORACLE, COIN = "oracle", "coin"
KNOWN: dict[str, tuple[Feature, ...]] = {
    "names": ("names",),
    "spectrum": ("spectrum",),
    "names + spectrum": ("names", "spectrum"),
}


def all_arms(recorded: RecordedTrials) -> dict[str, ArmFactory]:
    """Every arm of a table but those that are planned for one budget."""
    task = str(recorded.metadata["task"])
    return (
        judge_arms(recorded)
        | search_arms(Steps.of(recorded))
        | peer_arms()
        | transfer_arms(task)
        | reference_arms(task)
        | ablation_arms(task)
    )


def judge_arms(recorded: RecordedTrials) -> dict[str, ArmFactory]:
    """What no arm can be better than, and none may be worse than."""
    return {ORACLE: partial(Oracle, recorded), COIN: lambda: coin}


def peer_arms() -> dict[str, ArmFactory]:
    """Peers that Optuna does not ship."""
    arms: dict[str, ArmFactory] = {}
    for eta in (2, 3, 4):
        arms[f"CQR, ASHA η={eta}"] = partial(_conformal, eta)
    # As its authors have it, which takes twice the seconds: to see whether they make a difference.
    arms["CQR of 100 trees, ASHA η=3"] = partial(_conformal, 3, n_estimators=100, rate=0.1)
    return arms | {"DyHPO": DyHPO, "freeze-thaw": FreezeThaw}


def slow_arms() -> dict[str, ArmFactory]:
    """Arms that take minutes a race, and so run only where they are named."""
    return {"DyHPO, fitted as published": partial(DyHPO, AS_PUBLISHED)}


def transfer_arms(task: str) -> dict[str, ArmFactory]:
    """Peers that learn from the tables of all other tasks."""
    arms: dict[str, ArmFactory] = {}
    kinds: dict[str, type[Transfer]] = {
        "zero-shot": ZeroShot,
        "bounding box": BoundingBox,
        "quantile transfer": QuantileTransfer,
    }
    for name, kind in kinds.items():
        arms[f"{name}, SHA η=2"] = partial(_transfer, kind, task, "stopping", 2)
        arms[f"{name}, ASHA η=3"] = partial(_transfer, kind, task, "promotion", 3)
    return arms


def reference_arms(task: str) -> dict[str, ArmFactory]:
    """In the order of a forest that has learned from the tables of all other tasks."""
    arms: dict[str, ArmFactory] = {}
    for name, features in KNOWN.items():
        arms[f"forest on {name}, SHA η=2"] = partial(_halving, task, features)
        arms[f"forest on {name}, ASHA η=3"] = partial(_promotion, task, features)
    return arms


def planned_arms() -> dict[str, ArmFactory]:
    """Arms that plan for a budget: each is run once for every budget that is reported."""
    return {f"top {k} after {i}": partial(TopK, i, k) for i in (1, 2, 3, 5) for k in (1, 2, 3)}


def _conformal(eta: int, *, n_estimators: int = 25, rate: float = 0.3) -> NativeArm:
    return cqr_asha(eta, n_estimators=n_estimators, learning_rate=rate)


def _transfer(kind: type[Transfer], task: str, halving: Halving, eta: int) -> NativeArm:
    return kind(past_of(task), halving, eta)


def _halving(task: str, features: tuple[Feature, ...]) -> NativeArm:
    pruner = SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return Search(RandomSampler(), pruner, ranking=_ranking(task, features))


def _promotion(task: str, features: tuple[Feature, ...]) -> NativeArm:
    return Promotion(3, ranking=_ranking(task, features))


def _ranking(task: str, features: tuple[Feature, ...]) -> PriorRanking:
    # Learned beforehand, as a prior that is shipped: what it says is charged, not its learning.
    return PriorRanking(forest_without(task, features), spectra="spectrum" in features)


# In an hour: doing nothing, Optuna's defaults, of each family what is best on the development
# tables, what others make of the same past, and ours.
HOUR = (
    ORACLE,
    COIN,
    DEFAULTS,
    "random, none",
    "random, SHA η=2, min 1",
    "random, SHA η=2, min 3",
    "TPE, none",
    "TPE, Median",
    "TPE, Hyperband, min 1",
    "TPE, SHA η=2, min 1",
    "TPE, SHA η=3, min 1",
    "GP, none",
    "GP, SHA η=2, min 1",
    "ASHA η=2",
    "ASHA η=3",
    "ASHA η=4",
    "CQR, ASHA η=3",
    "DyHPO",
    "freeze-thaw",
    "zero-shot, SHA η=2",
    "zero-shot, ASHA η=3",
    "bounding box, ASHA η=3",
    "quantile transfer, SHA η=2",
    "quantile transfer, ASHA η=3",
    *(f"forest on {name}, {how}" for name in KNOWN for how in ("SHA η=2", "ASHA η=3")),
    *(f"top {k} after {i}" for i, k in ((1, 1), (1, 3), (3, 3))),
    OURS,
    *ablation_arms(""),
)
QUICK = (ORACLE, COIN, DEFAULTS, "random, none", "TPE, SHA η=2, min 1", "ASHA η=3", OURS)


def is_judge(name: str) -> bool:
    """Whether an arm is there to test the race, not to win it."""
    return name in (ORACLE, COIN)


def knows_other_tasks(name: str) -> bool:
    """Whether an arm has learned from other tasks' tables."""
    own = {OURS: None, **ablation_arms("")}
    return name in {**transfer_arms(""), **reference_arms(""), **own}


def needs_syne_tune(name: str) -> bool:
    """Whether an arm runs only where the extra ``race`` is installed."""
    return name.startswith("CQR") or name in transfer_arms("")


def chosen(names: Sequence[str] | None, arms: dict[str, ArmFactory]) -> dict[str, ArmFactory]:
    """Those of the arms that are named; all by default."""
    return {n: a for n, a in arms.items() if names is None or n in names}
