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
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.environment import describe_environment
from benchmarks.record.networks import N_GATES
from benchmarks.record.networks import shape_of
from benchmarks.record.spaces import draw_params
from benchmarks.record.table import TABLES
from benchmarks.record.table import assemble
from benchmarks.record.tables import DEVELOPMENT_TABLES
from benchmarks.record.tables import REPORT_TABLES
from benchmarks.record.tasks import TASKS
from benchmarks.record.tasks import Task
from benchmarks.record.training import train_stack
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
    """The numbers of the configurations that train side by side."""
    cell = table.rsplit("-", 1)[1]
    shapes: dict[tuple[str, int, int], list[int]] = {}
    for i in range(n_configs):
        params = draw_params(cell, configuration_seed(table, i))
        shapes.setdefault(shape_of(params, cell), []).append(i)
    stacks = []
    for members in shapes.values():
        n_parts = -(-len(members) // MAX_STACK)
        stacks += [list(map(int, part)) for part in np.array_split(members, n_parts)]
    return stacks


def record(
    task: Task,
    cell: str,
    folder: Path,
    *,
    n_configs: int,
    n_epochs: int,
    part: tuple[int, int],
    device: torch.device,
    tables: Path,
) -> None:
    """Train what is not on disk yet, one file a stack; write the table once all are there."""
    folder.mkdir(parents=True, exist_ok=True)
    table = f"{task.name}-{cell}"
    stacks = plan(table, n_configs)
    paths = {s[0]: _path(folder, s, n_epochs, task.data_version) for s in stacks}
    missing = [s for s in stacks[part[0] :: part[1]] if not paths[s[0]].exists()]
    n_left = n_epochs * sum(map(len, missing))
    with tqdm(disable=not missing, total=n_left, desc=table, unit="epoch", smoothing=0.02) as bar:
        for members in missing:
            seeds = [configuration_seed(table, i) for i in members]
            result = train_stack(
                task,
                cell,
                [draw_params(cell, seed) for seed in seeds],
                seeds,
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
    params = [draw_params(cell, configuration_seed(table, i)) for i in range(n_configs)]
    tables.mkdir(parents=True, exist_ok=True)
    whole = tables / f"unfinished-{os.getpid()}"
    assemble(task, cell, params, files).save(whole)
    whole.rename(tables / f"{table}.npz")


def _path(folder: Path, members: Sequence[int], n_epochs: int, data_version: str) -> Path:
    """Where a stack is kept: another name for another training, so that nothing is mixed."""
    return folder / f"{members[0]:04d}-{len(members)}-{n_epochs}-{data_version}.npz"


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the tables that the command line names."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    names = [*DEVELOPMENT_TABLES, *REPORT_TABLES] if options.all else options.tables
    tasks: dict[str, Task] = {}
    for name in names:
        task_name, cell = name.rsplit("-", 1)
        task = tasks.setdefault(task_name, TASKS[task_name]())
        record(
            task,
            cell,
            options.cache / name,
            n_configs=options.configs,
            n_epochs=options.epochs,
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
    parser.add_argument("--configs", type=positive, default=200, help="configurations a table")
    parser.add_argument("--epochs", type=positive, default=27, help="of each")
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
