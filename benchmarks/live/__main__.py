"""Does it hold live? Real trainings on tasks that no prior has seen, at equal seconds.

Every arm searches the same continuous space for as many seconds as about a dozen whole trainings
take, alone on a core, its own cost included; what was not trained to its end within them does not
count. *order* is another study: 40 networks of 9 epochs on a task whose errors start at chance,
beside no pruner, whatever the seconds; *digits* is ``python -m studies.digits``, with its prior
that has seen no digits, and *study* the very search of `make study`, as many networks for each
arm. Finished searches are kept, so an interrupted run goes on; results of
tasks that are not searched stay in the file.

    python -m benchmarks.live                     # 90 minutes on two cores
    python -m benchmarks.live --tasks flipflop --arms AeLLE "Optuna's defaults" --seeds 1
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.environment import RESULTS
from benchmarks.environment import command_line
from benchmarks.environment import describe_environment
from benchmarks.live.figure import draw
from benchmarks.live.searches import OURS
from benchmarks.live.searches import PLANS
from benchmarks.live.searches import Job
from benchmarks.live.searches import run


def main(arguments: Sequence[str] | None = None) -> None:
    """Search, write the results and draw them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.live",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", nargs="+", choices=list(PLANS), default=list(PLANS))
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="names; by default all")
    parser.add_argument("--seeds", type=int, help="of each task and arm; by default the task's")
    parser.add_argument("--workers", type=int, default=2, help="each needs a core of its own")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    # The seeds of a task first: what is there after an interruption is balanced.
    jobs = [
        Job(name, arm, seed)
        for name in options.tasks
        for seed in range(options.seeds or PLANS[name].seeds)
        for arm in (OURS, *PLANS[name].arms)
        if options.arms is None or arm in options.arms
    ]
    if not jobs:
        parser.error(f"no task has one of the arms {options.arms}")
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.workers) as pool:
        found = list(tqdm(pool.imap(run, jobs), total=len(jobs), desc="searches"))
    searched = {
        "command": command_line("python -m benchmarks.live", arguments or []),
        "environment": describe_environment(),
    }
    plans = {
        name: {
            "metric": PLANS[name].task.metric,
            "direction": PLANS[name].task.direction,
            "n_epochs": PLANS[name].n_epochs,
            "seconds": PLANS[name].seconds,
            "n_trials": PLANS[name].n_trials,
            **searched,
        }
        for name in options.tasks
    }
    path = options.output / "live.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Tasks that were not searched now stay as they are.
    before = json.loads(path.read_text()) if path.exists() else {"plans": {}, "searches": []}
    kept = {name: plan for name, plan in before["plans"].items() if name not in plans}
    results = {
        "plans": kept | plans,
        "searches": [s for s in before["searches"] if s["plan"] in kept] + found,
    }
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(draw(path))


if __name__ == "__main__":
    main(sys.argv[1:])
