"""What does a spectrum cost, how wrong is it, and does it ever come back as NaN?

Against the operations of the public code of Vogt et al. and against plain QR
(`benchmarks.engine.baselines`), against the same without compiled code, against one matrix product
and one training epoch, against a product of 600 digits, and against other packages where they are
installed. On the CPU with one thread. Each section is written as soon as it is measured, with all
single times; the figure is drawn from the file alone.

Half an hour on one core of a quiet machine: speed 18 minutes; peers 4; accuracy, gemm_cost and
fingerprint 2 each; diagonal, first_call, memory and methods 1 at most; the others seconds.

    python -m benchmarks.engine                          # everything
    python -m benchmarks.engine --section speed memory   # these anew, the rest of the file stays
    python -m benchmarks.engine --section speed --architecture GRU --size 64 128
    python -m benchmarks.engine --device cuda
    python -m benchmarks.engine --quick                  # a smoke test: a minute, tiny sizes
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from benchmarks.engine.accuracy import accuracy
from benchmarks.engine.figure import draw
from benchmarks.engine.peers import peers
from benchmarks.engine.study import candidates
from benchmarks.engine.study import diagonal
from benchmarks.engine.study import fingerprint
from benchmarks.engine.study import first_call
from benchmarks.engine.study import many_models
from benchmarks.engine.study import memory
from benchmarks.engine.timing import ARCHITECTURES
from benchmarks.engine.timing import Row
from benchmarks.engine.timing import Setting
from benchmarks.engine.timing import gemm_cost
from benchmarks.engine.timing import methods
from benchmarks.engine.timing import speed
from benchmarks.environment import RESULTS
from benchmarks.environment import describe_environment
from studies.arguments import device
from studies.arguments import positive

SECTIONS: dict[str, Callable[[Setting], Row]] = {
    "accuracy": accuracy,
    "candidates": candidates,
    "diagonal": diagonal,
    "fingerprint": fingerprint,
    "first_call": first_call,
    "gemm_cost": gemm_cost,
    "many_models": many_models,
    "memory": memory,
    "methods": methods,
    "peers": peers,
    "speed": speed,
}

_TELLING = ("MALLOC_", "MKL_", "NUMBA_NUM", "OMP_", "OPENBLAS_")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the sections asked for, merge each into the file, draw the figure."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    setting = Setting(
        options.device,
        quick=options.quick,
        only_architectures=tuple(options.architecture),
        only_sizes=tuple(options.size),
    )
    path = options.output or _default_path(setting)
    for name in options.section:
        # PyTorch does not see the threads of other libraries.
        with threadpool_limits(1):
            section = SECTIONS[name](setting)
        merge(path, name, {"environment": _environment(setting), **section})
    draw(path, path.with_suffix(".png"))


def merge(path: Path, name: str, section: Row) -> None:
    """Put one section into the file; other sections, and its other cases, stay as they are."""
    results = json.loads(path.read_text()) if path.exists() else {}
    section = _without_infinities(section)
    if "rows" in section:
        rows = [*results.get(name, {}).get("rows", []), *section["rows"]]
        section["rows"] = list({_case(row): row for row in rows}.values())
    results[name] = section
    ordered = {key: results[key] for key in sorted(results)}
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renaming is atomic: a run that is broken off leaves the old file or the new one.
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(ordered, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    os.replace(partial, path)


def _case(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in ("architecture", "hidden_size", "k", "steps", "dtype"))


def _without_infinities(value: Any) -> Any:
    """JSON knows neither infinity nor NaN: they become the words that `float` reads."""
    if isinstance(value, dict):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _environment(setting: Setting) -> Row:
    found = describe_environment(setting.device)
    return {
        "command": "python -m benchmarks.engine"
        + (f" --device {setting.device}" if setting.device.type != "cpu" else "")
        + (" --quick" if setting.quick else ""),
        "torch_threads": torch.get_num_threads(),
        # What may make libraries faster or slower than they are by themselves.
        "variables": {n: v for n, v in os.environ.items() if n.startswith(_TELLING)},
        **found,
        "packages": {**found["packages"], "numba": version("numba")},
    }


def _default_path(setting: Setting) -> Path:
    name = "engine" if setting.device.type == "cpu" else f"engine-{setting.device.type}"
    return Path("cache/engine-quick.json") if setting.quick else RESULTS / f"{name}.json"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    parser.add_argument("--section", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument(
        "--architecture",
        nargs="+",
        choices=list(ARCHITECTURES),
        default=[],
        help="only these cases",
    )
    parser.add_argument(
        "--size", nargs="+", type=positive, default=[], help="only these hidden sizes"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a smoke test")
    parser.add_argument(
        "--output", type=Path, help="results file; the figure goes beside it (default: results/)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
