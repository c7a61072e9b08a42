"""What was a measurement taken on, and where are its tables and results?"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
TABLES = Path(__file__).parent / "tables"
# Options that say where results go, and how many processes make them.
_ELSEWHERE = ("--cache", "--output", "--workers")
PACKAGES = ("optuna", "torch", "numpy", "scikit-learn", "scipy")


def describe_environment(device: torch.device | None = None) -> dict[str, Any]:
    """Versions, processor, threads and commit, for the head of a results file.

    Args:
        device: Where the measurement ran, if it was not the processor.
    """
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    environment = {
        "commit": commit.stdout.strip() or None,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }
    if device is not None and device.type == "cuda":
        environment["device"] = torch.cuda.get_device_name(device)
        environment["cuda"] = torch.version.cuda
    return environment


def command_line(prog: str, arguments: Sequence[str]) -> str:
    """The command, for the head of a results file, without what leaves its results alone."""
    kept, left = [], iter(arguments)
    for argument in left:
        name, has_value, _ = argument.partition("=")
        if name not in _ELSEWHERE:
            kept.append(argument)
        elif not has_value:
            next(left, None)
    return " ".join([prog, *kept])


def results_file(prog: str, description: str | None, default: Path) -> Path:
    """The file that a command is given to draw or print; ``default`` if none."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="?", type=Path, default=default)
    path: Path = parser.parse_args().results
    if not path.is_file():
        parser.error(f"expected a results file, but there is none at {str(path)!r}")
    return path


def _processor() -> str:
    """Its name, with family and model where Linux tells them: the name alone may say little."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    lines = (line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    found = {name.strip(): value.strip() for name, value in lines}
    name = found.get("model name", platform.machine())
    if not {"cpu family", "model"} <= found.keys():
        return name
    return f"{name} (family {found['cpu family']}, model {found['model']})"
