"""Does it scale? Many workers on one database, decisions in long studies, threads on busy cores.

*Throughput*: trials that train nothing, by 1 to 8 processes on PostgreSQL and behind Optuna's gRPC
proxy, beside TPE with Optuna's median pruner; after each run the storage is held against what the
workers did. *Latency*: seconds of a sampler's and a pruner's decisions, and memory, after 100 to
10,000 ended trials. *Busy*: studies of 1, 2 and 4 threads beside as many busy processes as there
are cores. What has been measured is kept, so an interrupted run goes on.

    python -m benchmarks.scale                    # 20 minutes on two cores that do nothing else
    python -m benchmarks.scale --quick            # does it run at all?
    python -m benchmarks.scale --parts latency
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from typing import NamedTuple

import optuna
from tqdm import tqdm

from benchmarks.environment import RESULTS
from benchmarks.environment import command_line
from benchmarks.environment import describe_environment
from benchmarks.scale import busy
from benchmarks.scale import latency
from benchmarks.scale import throughput
from benchmarks.scale.arms import ARMS
from benchmarks.scale.arms import be_quiet
from benchmarks.scale.arms import proxied
from benchmarks.scale.figure import draw

PARTS = ("throughput", "latency", "busy")
DATABASE = os.environ.get("AELLE_TEST_POSTGRESQL", "postgresql+psycopg://root@127.0.0.1:5432/test")
_CACHE = Path("cache") / "scale"


class Cell(NamedTuple):
    """One measurement: its part, what tells it from others, and how it is made."""

    part: str
    key: dict[str, Any]
    measure: Callable[[], dict[str, Any]]


def cells(parts: Sequence[str], where: dict[str, str], quick: bool) -> Iterator[Cell]:
    """All measurements; both arms of each side by side.

    Args:
        parts: Of `PARTS`.
        where: The storages by name.
        quick: Whether it is to show no more than that it runs.
    """
    if "throughput" in parts:
        for store in ("postgresql", "grpc"):
            for workers in (1, 2) if quick else (1, 2, 4, 8):
                n = 8 * workers if quick else 2000 if workers == 8 else throughput.N_FIRST
                for arm in ARMS:
                    yield Cell(
                        "throughput",
                        {"store": store, "workers": workers, "trials": n, "arm": arm},
                        partial(throughput.run_workers, where[store], arm, workers, n),
                    )
    if "latency" in parts:
        sizes = [("memory", n) for n in ((20, 400) if quick else (100, 1000, 10000))]
        sizes += [] if quick else [("postgresql", 100), ("postgresql", 1000)]
        for store, n in sizes:
            for arm in ARMS:
                n_decisions = 5 if quick else 150
                yield Cell(
                    "latency",
                    {"store": store, "ended": n, "arm": arm},
                    partial(latency.measure, where[store], arm, n, n_decisions),
                )
    if "busy" in parts:
        for n_jobs in (2,) if quick else (1, 2, 4):
            n_trials, n_epochs = (4, 1) if quick else (16, 6)
            yield Cell(
                "busy",
                {"n_jobs": n_jobs, "trials": n_trials, "epochs": n_epochs},
                partial(busy.compared, n_jobs, n_trials, n_epochs),
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the results and draw them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--database", default=DATABASE, help="URL of a PostgreSQL for this alone")
    parser.add_argument("--quick", action="store_true", help="whether it runs, in two minutes")
    parser.add_argument("--again", action="store_true", help="measure what is kept once more")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    be_quiet()
    with _storages(options.parts, options.database) as where:
        todo = list(cells(options.parts, where, options.quick))
        found = [_kept(cell, options.again) for cell in tqdm(todo, desc="measurements")]
    results = {
        "command": command_line("python -m benchmarks.scale", arguments or []),
        "environment": describe_environment(),
        "load_before": round(_LOAD, 2),
        **{
            part: [
                {**cell.key, **result}
                for cell, result in zip(todo, found, strict=True)
                if cell.part == part
            ]
            for part in PARTS
        },
    }
    path = options.output / "scale.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and set(options.parts) != set(PARTS):
        # Parts that were not measured now stay as they are.
        before = json.loads(path.read_text())
        results |= {p: before[p] for p in PARTS if p not in options.parts and p in before}
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(draw(path))


# Of the machine, before this run adds to it.
_LOAD = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


@contextmanager
def _storages(parts: Sequence[str], database: str) -> Iterator[dict[str, str]]:
    known = {"memory": "memory", "postgresql": database}
    if "throughput" not in parts:
        yield known
        return
    with proxied(database) as address:
        yield {**known, "grpc": address}


def _kept(cell: Cell, again: bool) -> dict[str, Any]:
    """A measurement; read where it has been made before, by the same code."""
    name = "-".join(str(value) for value in cell.key.values())
    name = "".join(c if c.isalnum() else "_" for c in name)
    path = _CACHE / _code_version() / f"{cell.part}-{name}.json"
    if path.exists() and not again:
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    found = cell.measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(found))
    unfinished.rename(path)
    return found


def _code_version() -> str:
    root = Path(__file__).parents[2]
    digest = hashlib.sha256(optuna.__version__.encode())
    for source in ("optuna_aelle/trials", "optuna_aelle/prediction", "optuna_aelle/decisions"):
        for file in sorted((root / source).glob("*.py")):
            digest.update(file.read_bytes())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    main(sys.argv[1:])
