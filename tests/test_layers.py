"""Data flows one way: a package imports only from those before it, and what it may."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import optuna_aelle

ROOT = Path(optuna_aelle.__file__).parent
# From networks to pictures. What lies at the root may be used by all.
LAYERS = (
    *(
        "lyapunov",
        "trials",
        "aelle",
        "prediction",
        "decisions",
        "integration",
        "backtest",
        "visualization",
    ),
    "cli",
)
AT_THE_ROOT = {"__init__.py", "_files.py", "_threads.py", "_warnings.py", "fingerprint.py"}
FILES = sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_root_holds_what_belongs_to_no_layer() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == AT_THE_ROOT
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} == {*LAYERS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_layer_imports_only_from_those_before_it(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    if len(parts) == 1:
        return
    allowed = LAYERS[: LAYERS.index(parts[0]) + 1]
    for name in imports(path):
        if name.startswith("optuna_aelle.") and name.split(".")[1] in LAYERS:
            assert name.split(".")[1] in allowed, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_optuna_s_private_storage_is_reached_in_one_place(path: Path) -> None:
    if path == ROOT / "trials" / "storage.py":
        return
    for private in ("._storage.", "._trial_id", "._study_id"):
        assert private not in path.read_text()


def test_networks_need_no_optuna_and_trials_no_torch() -> None:
    for path in (ROOT / "lyapunov").rglob("*.py"):
        assert not any(name.split(".")[0] in ("optuna", "sklearn") for name in imports(path))
    for path in (ROOT / "trials").rglob("*.py"):
        torch = [name for name in imports(path) if name.split(".")[0] == "torch"]
        # `report_network` names the types of what it is given.
        assert path.name == "reporting.py" or not torch
