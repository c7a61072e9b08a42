"""Does it scale? Many workers on one database, decisions in long studies, threads on busy cores.

*Throughput*: trials that train nothing, by 1 to 8 processes on PostgreSQL and behind Optuna's gRPC
proxy, beside TPE with Optuna's median pruner; after each run the storage is held against what the
workers did. *Same work*: again, where pruners are asked but not obeyed, since who stops trials
earlier ends more of them. *Latency*: seconds of a sampler's and a pruner's decisions, and memory,
from 100 to 10,000 ended trials on. *Busy*: studies of 1, 2 and 4 threads beside as many busy
processes as there are cores. What has been measured is kept, so an interrupted run goes on. Only
a whole run writes ``scale.json``, or one with ``--into-whole`` its parts of it, and of which
environment they are; any other writes ``scale_partial.json``.

    python -m benchmarks.scale                    # an hour on two cores that do nothing else
    python -m benchmarks.scale --quick            # does it run at all?
    python -m benchmarks.scale --parts latency --into-whole
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from typing import NamedTuple

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

PARTS = ("throughput", "same_work", "latency", "busy")
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
    for store in ("postgresql", "grpc") if "same_work" in parts else ():
        for workers in (2,) if quick else (1, 8):
            n = 8 if quick else throughput.N_FIRST if workers == 1 else 2000
            for arm in ARMS:
                yield Cell(
                    "same_work",
                    {"store": store, "workers": workers, "trials": n, "arm": arm},
                    partial(throughput.run_workers, where[store], arm, workers, n, True),
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
            n_trials, n_epochs, n_repeats = (4, 1, 1) if quick else (12, 4, 3)
            yield Cell(
                "busy",
                {"n_jobs": n_jobs, "trials": n_trials, "epochs": n_epochs},
                partial(busy.repeated, n_jobs, n_trials, n_epochs, n_repeats),
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
    parser.add_argument(
        "--into-whole", action="store_true", help="put the parts in place of those of scale.json"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    if options.into_whole and options.quick:
        parser.error("--into-whole takes whole measurements: leave out --quick.")
    be_quiet()
    # Whoever is told to end takes its processes along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    environment = describe_environment()
    cache = _CACHE / _digest(environment, options.database)
    with _storages(options.parts, options.database) as where:
        todo = list(cells(options.parts, where, options.quick))
        found = [_kept(cell, cache, options.again) for cell in tqdm(todo, desc="measurements")]
    given = sys.argv[1:] if arguments is None else arguments
    command = command_line("python -m benchmarks.scale", given)
    measured = {
        part: [
            {**cell.key, **result}
            for cell, result in zip(todo, found, strict=True)
            if cell.part == part
        ]
        for part in PARTS
    }
    results = {"command": command, "environment": environment, **measured}
    whole = set(options.parts) == set(PARTS) and not options.quick
    path = options.output / ("scale.json" if whole or options.into_whole else "scale_partial.json")
    if options.into_whole:
        results = json.loads(path.read_text())
        of_parts = results.setdefault("measured_again", {})
        for part in options.parts:
            results[part] = measured[part]
            of_parts[part] = {"command": command, "environment": environment}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(draw(path))


@contextmanager
def _storages(parts: Sequence[str], database: str) -> Iterator[dict[str, str]]:
    known = {"memory": "memory", "postgresql": database}
    if not {"throughput", "same_work"} & {*parts}:
        yield known
        return
    with proxied(database) as address:
        yield {**known, "grpc": address}


def _kept(cell: Cell, cache: Path, again: bool) -> dict[str, Any]:
    """A measurement, and the load of the machine before it; read where it has been made before."""
    name = "-".join(str(value) for value in cell.key.values())
    name = "".join(c if c.isalnum() else "_" for c in name)
    path = cache / f"{cell.part}-{name}.json"
    if path.exists() and not again:
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    found = {"load_before": load, **cell.measure()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(found))
    unfinished.rename(path)
    return found


def _digest(environment: dict[str, Any], database: str) -> str:
    """The same for the same code, on the same machine and database."""
    of_machine = {name: value for name, value in environment.items() if name != "commit"}
    digest = hashlib.sha256(json.dumps([of_machine, database], sort_keys=True).encode())
    root = Path(__file__).parents[2]
    for folder in (root / "optuna_aelle", Path(__file__).parent):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
