"""The folders for OptunaHub's registry: complete as it asks, and their examples run."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import optuna_aelle
from tests.conftest import skip_unless_required

ROOT = Path(__file__).parents[1] / "optunahub"
PACKAGES = ("samplers/aelle_sampler", "pruners/aelle_pruner")
NAMES = {
    "samplers/aelle_sampler": ["AeLLESampler"],
    "pruners/aelle_pruner": ["AeLLEPruner", "should_prune"],
}
# What the registry's web page is made of.
HEADER = ("author", "title", "description", "tags", "optuna_versions", "license")
SECTIONS = ["Abstract", "APIs", "Installation", "Example", "Others"]


def need_optunahub() -> None:
    if importlib.util.find_spec("optunahub") is None:
        skip_unless_required("optunahub is not installed")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_registry_finds_what_it_asks_for(package: str) -> None:
    text = (ROOT / package / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    fields = yaml.safe_load(header)
    assert tuple(fields) == HEADER
    assert all(fields.values())
    assert fields["license"] == "MIT License"
    assert package.split("/")[0].removesuffix("s") in fields["tags"]
    assert re.findall(r"^## (.+)$", body, re.MULTILINE) == SECTIONS
    # Tags of HTML are removed from it.
    assert not re.search(r"<[a-zA-Z/!]", body)
    for block in re.findall(r"```python\n(.*?)```", body, re.DOTALL):
        ast.parse(block)
    root = Path(__file__).parents[1]
    assert (ROOT / package / "LICENSE").read_text() == (root / "LICENSE").read_text()
    assert (ROOT / package / "requirements.txt").read_text().split() == ["optuna-aelle"]


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_but_text_is_in_it(package: str) -> None:
    names = {path.name for path in (ROOT / package).iterdir() if path.name != "__pycache__"}
    assert names == {"LICENSE", "README.md", "__init__.py", "example.py", "requirements.txt"}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_signatures_in_the_readme_are_those_of_the_package(package: str) -> None:
    import inspect

    text = (ROOT / package / "README.md").read_text()
    for name in NAMES[package]:
        told = re.search(rf"^- `{name}\((.*)\)`$", text, re.MULTILINE)
        assert told is not None
        parameters = inspect.signature(getattr(optuna_aelle, name)).parameters
        found = re.findall(r"(\w+)(?:=[^,]*(?:\([^)]*\))?)?(?:, |$)", told[1])
        assert found == [*parameters]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_module_gives_what_it_says(package: str) -> None:
    need_optunahub()
    import optunahub

    module = optunahub.load_local_module(package, registry_root=str(ROOT))
    assert module.__all__ == NAMES[package]
    for name in NAMES[package]:
        assert getattr(module, name) is getattr(optuna_aelle, name)


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_the_example_runs(package: str, tmp_path: Path) -> None:
    need_optunahub()
    done = subprocess.run(
        [sys.executable, str(ROOT / package / "example.py")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Warning" not in done.stderr.replace("ExperimentalWarning", "")
