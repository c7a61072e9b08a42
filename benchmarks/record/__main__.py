"""Where would every configuration have ended? Record a table: all trained to the end.

Networks of one shape train side by side. Every finished stack is a file of its own, so an
interrupted run goes on where it stopped, and two commands with another ``--part`` share the work.
The last one to finish writes the table.

    python -m benchmarks.record --task digits --cell rnn
    python -m benchmarks.record --task recall --cell mixed --part 0/2 & ... --part 1/2
    python -m benchmarks.record --all            # everything in benchmarks/tables, hours
"""

from __future__ import annotations

import argparse
import os
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.environment import describe_environment
from benchmarks.record.networks import shape_of
from benchmarks.record.plans import Plan
from benchmarks.record.plans import plan_of
from benchmarks.record.spaces import draw_params
from benchmarks.record.table import TABLES
from benchmarks.record.table import assemble
from benchmarks.record.tables import DEVELOPMENT_TABLES
from benchmarks.record.tables import REPORT_TABLES
from benchmarks.record.tasks import TASKS
from benchmarks.record.tasks import Task
from benchmarks.record.training import train_stack
from benchmarks.record.weights import N_GATES
from studies.arguments import device
from studies.arguments import positive

CACHE = Path("cache/record")
# A stack is what an interruption loses.
MAX_STACK = 16
CELLS = (*N_GATES, "mixed")


def configuration_seed(table: str, index: int) -> int:
    """What a configuration, its initial weights and its dropout follow from."""
    return zlib.crc32(f"{table}:{index}".encode())


def plan(table: str, n_configs: int) -> list[list[int]]:
    """The numbers of the configurations that train side by side: of one shape and batch size."""
    chosen = plan_of(table)
    shapes: dict[tuple[object, ...], list[int]] = {}
    for i in range(n_configs):
        params = chosen.space.complete(draw_params(chosen.space, configuration_seed(table, i)))
        shape = *shape_of(params, chosen.space.cells[0]), params.get("batch_size")
        shapes.setdefault(shape, []).append(i)
    stacks = []
    for members in shapes.values():
        n_parts = -(-len(members) // MAX_STACK)
        stacks += [list(map(int, part)) for part in np.array_split(members, n_parts)]
    return stacks


def record(
    task: Task,
    chosen: Plan,
    folder: Path,
    *,
    part: tuple[int, int],
    device: torch.device,
    tables: Path,
) -> None:
    """Train what is not on disk yet, one file a stack; write the table once all are there."""
    folder.mkdir(parents=True, exist_ok=True)
    table, n_epochs = chosen.name, chosen.n_epochs
    seeds = [configuration_seed(table, i) for i in range(chosen.n_configs)]
    drawn = [draw_params(chosen.space, seed) for seed in seeds]
    stacks = plan(table, chosen.n_configs)
    paths = {s[0]: _path(folder, s, chosen, task.data_version) for s in stacks}
    missing = [s for s in stacks[part[0] :: part[1]] if not paths[s[0]].exists()]
    n_left = n_epochs * sum(map(len, missing))
    with tqdm(disable=not missing, total=n_left, desc=table, unit="epoch", smoothing=0.02) as bar:
        for members in missing:
            result = train_stack(
                task,
                chosen.space.cells[0],
                [chosen.space.complete(drawn[i]) for i in members],
                [seeds[i] for i in members],
                n_epochs=n_epochs,
                device=device,
                after_epoch=partial(bar.update, len(members)),
            )
            # Whole or not at all: a run may be stopped at any moment.
            unfinished = folder / f"unfinished-{os.getpid()}.npz"
            commit = str(describe_environment()["commit"])
            np.savez_compressed(unfinished, members=members, commit=commit, **vars(result))
            unfinished.rename(paths[members[0]])
    files = list(paths.values())
    if not all(file.exists() for file in files):
        return
    tables.mkdir(parents=True, exist_ok=True)
    whole = tables / f"unfinished-{os.getpid()}"
    assemble(task, chosen, drawn, files).save(whole)
    whole.rename(tables / f"{table}.npz")


def _path(folder: Path, members: Sequence[int], chosen: Plan, data_version: str) -> Path:
    """Where a stack is kept: another name for another training, so that nothing is mixed."""
    space = zlib.crc32(repr(chosen.space).encode())
    name = f"{members[0]:04d}-{len(members)}-{chosen.n_epochs}-{space:08x}-{data_version}"
    return folder / f"{name}.npz"


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the tables that the command line names."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    names = [*DEVELOPMENT_TABLES, *REPORT_TABLES] if options.all else options.tables
    tasks: dict[str, Task] = {}
    for name in names:
        chosen = plan_of(name)
        sizes = {"n_configs": options.configs, "n_epochs": options.epochs}
        chosen = replace(chosen, **{key: n for key, n in sizes.items() if n is not None})
        if chosen.task not in tasks:
            tasks[chosen.task] = TASKS[chosen.task]()
        record(
            tasks[chosen.task],
            chosen,
            options.cache / name,
            part=options.part,
            device=options.device,
            tables=options.tables_folder,
        )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.record",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", choices=sorted(TASKS))
    parser.add_argument("--cell", choices=CELLS)
    parser.add_argument("--tables", nargs="+", default=[], help="names like digits-rnn")
    parser.add_argument("--all", action="store_true", help="all in benchmarks/tables")
    parser.add_argument("--configs", type=positive, help="configurations a table")
    parser.add_argument("--epochs", type=positive, help="of each; both as planned for the table")
    parser.add_argument("--part", type=_part, default=(0, 1), help="k/n: the k-th of n shares")
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda, cuda:0 ...")
    parser.add_argument("--tables-folder", type=Path, default=TABLES, help="of the results")
    parser.add_argument("--cache", type=Path, default=CACHE, help="of finished stacks")
    options = parser.parse_args(arguments)
    if (options.task is None) != (options.cell is None):
        parser.error("expected --task and --cell together")
    if options.task:
        options.tables.append(f"{options.task}-{options.cell}")
    if not (options.tables or options.all):
        parser.error("name a table: --task and --cell, --tables, or --all")
    for name in options.tables:
        task, _, cell = name.rpartition("-")
        if task not in TASKS or cell not in CELLS:
            kinds = f"{', '.join(sorted(TASKS))} and {', '.join(CELLS)}"
            parser.error(f"expected task-cell out of {kinds}, but got {name}")
    return options


def _part(text: str) -> tuple[int, int]:
    try:
        index, count = map(int, text.split("/"))
    except ValueError:
        index, count = 0, 0
    if not 0 <= index < count:
        raise argparse.ArgumentTypeError(f"expected k/n with 0 <= k < n, such as 0/2, got {text}")
    return index, count


if __name__ == "__main__":
    main()
