"""README and the pages of the site: code runs, commands are parsed, links lead somewhere.

A block that cannot run is marked above it, ``<!-- not run: reason -->``, and there are few. What a
page takes for granted (a network, a finished study) is made in `given`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data import TensorDataset

import optuna_aelle
import studies.arguments
from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov.adapters import ADAPTERS
from optuna_aelle.prediction.knobs import KNOBS
from optuna_aelle.prediction.knobs import knob_of
from tests.conftest import run_synthetic
from tests.conftest import skip_unless_required

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LINKED = [*PAGES, ROOT / "CHANGELOG.md"]
# No page may grow a habit of code that nobody runs.
MOST_NOT_RUN = 4
MOST_TRIALS = 4

SHELL = ("bash", "console", "sh")
DATA = ("yaml", "toml", "json")
OUTPUT = ("text",)
# What takes more than a few seconds runs with the slow tests.
SLOW_PAGES = ("README.md", "docs/first-search.md", "docs/integrations.md")
# What a user has or a service brings; these lines are read by the shell's parser alone.
OTHER_PROGRAMS = {
    ".ci/run",
    "cd",
    "createdb",
    "export",
    "git",
    "kubectl",
    "sbatch",
    "squeue",
    "ssh",
    "wait",
}

_BLOCK = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>[^\n]+?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>[^\s`]*)[^\n`]*\n(?P<code>.*?)^(?P=indent)``` *$",
    flags=re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*?) *#* *$", flags=re.MULTILINE)
_DIRECTIVE = re.compile(r"^::: ([\w.]+)$", flags=re.MULTILINE)
_COMMAND = re.compile(r"(?:\S*/)?(?:optuna-aelle|optuna-dashboard|python3? -m|make|pip install) ")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str
    reason: str | None


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")),
            found["language"],
            textwrap.dedent(found["code"]),
            found["reason"],
        )
        for found in _BLOCK.finditer(text)
    ]


def prose_of(page: Path) -> str:
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = [block for block in BLOCKS if block.reason is None]


def test_every_block_says_what_it_is() -> None:
    known = {"python", *SHELL, *DATA, *OUTPUT}
    for block in BLOCKS:
        assert block.language in known, f"{named(block.page)}:{block.line}: {block.language!r}"
    fences = sum(
        len(re.findall(r"^ *```", p.read_text(encoding="utf-8"), re.MULTILINE)) for p in PAGES
    )
    assert fences == 2 * len(BLOCKS)


def test_few_blocks_are_not_run() -> None:
    marked = [block for block in BLOCKS if block.reason is not None]
    assert len(marked) <= MOST_NOT_RUN, [f"{named(b.page)}:{b.line}: {b.reason}" for b in marked]
    comments = sum(p.read_text(encoding="utf-8").count("<!-- not run:") for p in PAGES)
    assert comments == len(marked), "A mark stands right above its block."


# Python


class MyPruner(optuna.pruners.BasePruner):
    """A pruner of a user's own."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return False


def train_epoch(*modules: Any) -> float:
    """An epoch that costs nothing and changes something."""
    with torch.no_grad():
        for module in modules:
            if isinstance(module, nn.Module):
                for weight in module.parameters():
                    weight *= 0.99
    return float(torch.rand(()))


def finished_study(name: str, storage: str | None = None) -> optuna.Study:
    study = optuna.create_study(
        study_name=name, storage=storage, pruner=optuna.pruners.NopPruner(), load_if_exists=True
    )
    run_synthetic(study, 12, n_steps=6)
    return study


@pytest.fixture(scope="module")
def finished() -> optuna.Study:
    return finished_study("finished")


def lightning_names() -> dict[str, Any]:
    """A module of a user's own, and its batches."""
    try:
        from lightning import LightningModule
    except ImportError:
        skip_unless_required("lightning is not installed")

    class MyModule(LightningModule):
        def __init__(self, size: int, lr: float) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(1, size, batch_first=True), nn.Linear(size, 1)
            self.lr = lr

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0][:, -1])

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return nn.functional.mse_loss(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_loss", nn.functional.mse_loss(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), self.lr)

    x = torch.randn(16, 6, 1)
    batches = DataLoader(TensorDataset(x, x[:, 0]), batch_size=8)
    return {"MyModule": MyModule, "train_batches": batches, "val_batches": batches}


def given(page: str, study: optuna.Study) -> dict[str, Any]:
    """The names that a page takes for granted; the files lie in the working directory."""
    names: dict[str, Any] = {"__name__": page}
    if page == "README.md":
        names |= {"probe_inputs": torch.randn(2, 12, 1), "train_epoch": train_epoch}
        names |= lightning_names()
    if page == "docs/benchmarks/replay.md":
        names |= {"aelle": optuna_aelle, "optuna": optuna, "study": study, "MyPruner": MyPruner}
    if page == "docs/benchmarks/tables.md":
        names |= {"aelle": optuna_aelle}
        Path("benchmarks").symlink_to(ROOT / "benchmarks")
    if page == "docs/pictures.md":
        names |= {"study": study}
    if page == "docs/transfer.md":
        finished_study("pendulum", "sqlite:///past.db")
        optuna_aelle.RecordedTrials.from_study(study).save("lorenz.npz")
    return names


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies of a few trials, replays and races of a few repeats."""
    optimize = optuna.Study.optimize
    replay, race = optuna_aelle.replay, optuna_aelle.race

    def few_trials(
        self: optuna.Study, func: Any, n_trials: int | None = None, **rest: Any
    ) -> None:
        optimize(self, func, n_trials=min(n_trials or MOST_TRIALS, MOST_TRIALS), **rest)

    def few_repeats(compare: Callable[..., Any]) -> Callable[..., Any]:
        def short(recorded: Any, arms: Any, **rest: Any) -> Any:
            if "n_trials" in rest:
                rest["n_trials"] = min(rest["n_trials"], len(recorded))
            rest["n_repeats"] = 2
            if "budget" in rest:
                rest["budget"] //= 4
            return compare(recorded, arms, **rest)

        return short

    monkeypatch.setattr(optuna.Study, "optimize", few_trials)
    monkeypatch.setattr(optuna_aelle, "replay", few_repeats(replay))
    monkeypatch.setattr(optuna_aelle, "race", few_repeats(race))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if named(page) in SLOW_PAGES else [])
        for page in dict.fromkeys(b.page for b in RUN if b.language == "python")
    ],
    ids=named,
)
def test_python_runs(
    page: Path, finished: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks of a page share their names, as a reader's session does."""
    monkeypatch.chdir(tmp_path)
    names = given(named(page), finished)
    before = {*names}
    shorten(monkeypatch)
    with warnings.catch_warnings(), mock.patch.dict(os.environ):
        warnings.simplefilter("error", optuna_aelle.AeLLEWarning)
        for block in RUN:
            if block.page == page and block.language == "python":
                # So that an error tells the line of the page.
                code = "\n" * block.line + block.code
                exec(compile(code, str(page), "exec"), names)
    assert {*names} - {"__builtins__"} > before, "no block has made anything"


def test_the_page_of_models_names_every_cell_and_every_adapter() -> None:
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    layers = [name for name in cells.__all__ if isinstance(getattr(cells, name), type)]
    for name in {*layers} - {"RecurrentLayer", "DiagonalLayer"}:
        assert f"`{name}`" in page, name
    for module, name in ADAPTERS:
        known = f"`{name}`" in page or "ncps" in module or "xlstm" in module
        assert known, f"{module}.{name}"


def test_the_page_of_transfer_names_every_knob() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \|(.*)\|$", (DOCS / "transfer.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert [knob for knob, _ in rows if knob in KNOBS] == [knob for knob, _ in rows]
    assert {knob for knob, _ in rows} == set(KNOBS)
    for knob, spoken in rows:
        for name in (knob, *re.findall(r"`(\w+)`", spoken)):
            assert knob_of(name) == knob, name


# Commands


class _Parsed(BaseException):
    """The arguments were understood; what they ask for is not done."""


@pytest.fixture
def parsing_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever runs ends once its arguments are parsed, and leaves the process as it was."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_end(self: Any, *arguments: Any) -> None:
        parse_args(self, *arguments)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_end)
    # A device or a database that this machine lacks is understood, too.
    monkeypatch.setattr(studies.arguments, "device", torch.device)
    monkeypatch.setattr(studies.arguments, "storage_url", str)
    threads = torch.get_num_threads()
    with mock.patch.dict(os.environ):
        yield
    torch.set_num_threads(threads)


def typed(code: str) -> str:
    """What is typed where there are prompts, without what is answered; else all of it."""
    lines = re.findall(r"^\$ (.*(?:\\\n.*)*)", code, flags=re.MULTILINE)
    return "\n".join(lines) if lines else code


def commands_of_shell(code: str) -> Iterator[list[str]]:
    """The simple commands of a block, as words, without prompts, comments and here-documents.

    Variables that the block has set have their first value.
    """
    variables: dict[str, str] = {}

    def filled(variable: re.Match[str]) -> str:
        return variables.get(variable[1], variable[0])

    code = typed(code)
    code = re.sub(r"<<-?\s*'?(\w+)'?.*?^\s*\1$", "", code, flags=re.MULTILINE | re.DOTALL)
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(
            line.replace("<this repository>", "REPOSITORY"),
            posix=True,
            punctuation_chars=True,
        )
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word and set(word) <= set(";&|()"):
                words = [w for w in words if w not in ("do", "then", "else", "done", "fi")]
                if words[:1] == ["for"]:
                    variables[words[1]] = words[3]
                elif words:
                    for name, value in (
                        w.split("=", 1) for w in words[1:] if words[0] == "export"
                    ):
                        variables[name] = value
                    yield [re.sub(r"\$\{?(\w+)\}?", filled, w) for w in words]
                words = []
            else:
                words.append(word)


def check_command(words: list[str], where: str) -> bool:
    """Parse one with what parses it; False for a program that is not ours to parse."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if not words:
        return True
    program, arguments = Path(words[0]).name, words[1:]
    # A program may look whether the database is there.
    arguments = [re.sub(r"^postgresql\S+", "sqlite://", word) for word in arguments]
    if program in ("python", "python3"):
        if arguments[:1] != ["-m"]:
            return arguments[0].endswith(".py") or arguments[0] == "-c"
        module, *arguments = arguments[1:]
        if module == "pip":
            return check_command(["pip", *arguments], where)
        if module.split(".")[0] not in ("benchmarks", "studies", "optuna_aelle"):
            assert importlib.util.find_spec(module), f"{where}: no module {module}"
            return True
        ends_parsed(
            lambda: runpy.run_module(module, run_name="__main__"), module, arguments, where
        )
    elif program == "optuna-aelle":
        from optuna_aelle.cli import main

        ends_parsed(main, program, arguments, where)
    elif program == "optuna-dashboard":
        from optuna_dashboard._cli import main as dashboard

        ends_parsed(dashboard, program, arguments, where)
    elif program == "optuna":
        from optuna.cli import main as optuna_cli

        ends_parsed(optuna_cli, program, arguments, where)
    elif program == "make":
        targets = [word for word in arguments if "=" not in word]
        rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(targets) <= set(rules), f"{where}: make {targets}"
    elif program == "pip":
        text = (ROOT / "pyproject.toml").read_text()
        for extra in re.findall(r"(?:optuna-aelle|\.)\[([\w,-]+)\]", " ".join(arguments)):
            for name in extra.split(","):
                assert re.search(rf"^{name} = \[", text, re.MULTILINE), f"{where}: [{name}]"
    else:
        return False
    return True


def ends_parsed(program: Callable[[], Any], name: str, arguments: list[str], where: str) -> None:
    said = f"{where}: {name} {shlex.join(arguments)}"
    with (
        mock.patch.object(sys, "argv", [name, *arguments]),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # that it was imported already
        try:
            program()
        except _Parsed:
            return
        except SystemExit as left:
            answered = {"--help", "--version"} & {*arguments} and left.code in (0, None)
            if answered:
                return
            pytest.fail(f"{said}: exit status {left.code}")
    pytest.fail(f"{said}: ran without parsing its arguments")


@pytest.mark.parametrize("page", PAGES, ids=named)
@pytest.mark.usefixtures("parsing_alone")
def test_commands_are_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in RUN:
        if block.page != page or block.language not in SHELL:
            continue
        where = f"{named(page)}:{block.line}"
        script = typed(block.code).replace("<this repository>", "REPOSITORY")
        shell = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert shell.returncode == 0, f"{where}: {shell.stderr}"
        for words in commands_of_shell(block.code):
            known = check_command(words, where) or words[0] in OTHER_PROGRAMS
            assert known, f"{where}: {shlex.join(words)}: of which program is this?"
    for inline in _INLINE.findall(prose_of(page)):
        line = " ".join(inline.split()).replace(" COMMAND", "")
        if _COMMAND.match(line):
            for words in commands_of_shell(line):
                if words[0] == "optuna-aelle" and len(words) <= 2:
                    words.append("--help")  # named, not called
                assert check_command(words, named(page)), line
    capsys.readouterr()


@pytest.mark.parametrize("language", DATA)
def test_data_can_be_read(language: str) -> None:
    for block in RUN:
        if block.language == language:
            where = f"{named(block.page)}:{block.line}"
            assert read_data(language, block.code), where


def read_data(language: str, code: str) -> Any:
    if language == "json":
        return json.loads(code)
    if language == "yaml":
        import yaml

        return [part for part in yaml.safe_load_all(code) if isinstance(part, dict | list)]
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    return tomllib.loads(code)


# Links


def anchors_of(page: Path) -> set[str]:
    """As git hosts make them of headings, and the site of names of the API."""
    anchors: set[str] = set(_DIRECTIVE.findall(page.read_text(encoding="utf-8")))
    for heading in _HEADING.findall(_BLOCK.sub("", page.read_text(encoding="utf-8"))):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        repeated = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", a) is not None for a in anchors)
        anchors.add(f"{slug}-{repeated}" if repeated else slug)
    return anchors


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(prose_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{target}: no such file"
        assert file.is_relative_to(ROOT), f"{target}: lies outside the repository"
        if anchor:
            assert anchor in anchors_of(file), f"{target}: no such heading"


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    shown = {*_DIRECTIVE.findall(text)}
    for name in sorted(shown):
        with suppress(ModuleNotFoundError):  # of a name within a module
            if importlib.util.find_spec(name) is not None:  # a module shows all that it holds
                members = getattr(importlib.import_module(name), "__all__", ())
                shown |= {f"{name}.{member}" for member in members}
    ends = {name.rpartition(".")[2] for name in shown}
    for module in (optuna_aelle, optuna_aelle.lyapunov, optuna_aelle.integration):
        assert {*module.__all__} - {"lyapunov", "integration"} - ends == set(), module.__name__


def test_the_readme_is_a_first_screen() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


# The site


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    if shutil.which("mkdocs", path=str(Path(sys.executable).parent)) is None:
        skip_unless_required("mkdocs is not installed")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)\b[^>]*\bsrc=\"?(https?:[^\s\">]+)", html)
        loaded += re.findall(r"<link\b[^>]*\bhref=\"?(https?:[^\s\">]+)", html)
        assert loaded == [], page
    assert (tmp_path / "benchmarks" / "results" / "live.png").is_file()
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'src="benchmarks/results/live.png"' in home
    reference = (tmp_path / "api" / "searching" / "index.html").read_text(encoding="utf-8")
    assert 'id="optuna_aelle.AeLLESampler"' in reference
    assert "Parameters:" in reference
