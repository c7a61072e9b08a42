"""The commands: help, statuses, interruptions, what they print and what they write."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import plotly.graph_objects as go
import pytest

import optuna_aelle
from optuna_aelle.cli import learn
from optuna_aelle.cli import main
from optuna_aelle.cli import outputs
from optuna_aelle.cli import plots
from tests.cli.conftest import refused
from tests.cli.conftest import run
from tests.conftest import run_synthetic

COMMANDS = ("replay", "race", "explain", "plots", "learn", "doctor")
PROGRAM = [sys.executable, "-m", "optuna_aelle.cli"]


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_shows_an_example(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*([command] if command else []), "--help"]) == 0
    assert f"\n  optuna-aelle {command or 'replay'} sqlite:///my.db" in capsys.readouterr().out


def test_help_and_version_load_nothing_heavy() -> None:
    code = (
        "import sys; from optuna_aelle.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'optuna', 'numpy', 'plotly') if m in sys.modules])"
    )
    for argument in ("--help", "--version", "nonsense"):
        done = subprocess.run(
            [sys.executable, "-c", code, argument], capture_output=True, text=True
        )
        assert done.stdout.endswith("[]\n")


def test_the_program_says_its_version() -> None:
    program = Path(sys.executable).with_name("optuna-aelle")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"optuna-aelle {optuna_aelle.__version__}\n"


def test_no_command_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "required: COMMAND" in capsys.readouterr().err


def test_a_password_among_the_arguments_is_not_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["replay", "a.npz", "postgresql://me:se@cret@host/db"]) == 2
    err = capsys.readouterr().err
    assert "postgresql://***@host/db" in err
    assert "cret" not in err


def test_what_is_no_mistake_of_the_caller_s_is_an_internal_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("of a\nbug")

    monkeypatch.setattr(plots, "check_folder", fail)
    assert main(["plots", "my.db"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("optuna-aelle: internal error, ZeroDivisionError: of a (")
    assert len(err.splitlines()) == 1
    monkeypatch.setenv("AELLE_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(["plots", "my.db"])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no timers")
def test_an_interruption_that_python_drops_is_heard_a_second_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Loud:
        def __del__(self) -> None:
            # Whatever is raised in here is dropped.
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def deaf(*_: object) -> None:
        Loud()
        time.sleep(30)

    monkeypatch.setattr(learn, "check_file", deaf)
    monkeypatch.setattr("optuna_aelle.cli._UNHEARD_SECONDS", 0.5)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    assert main(["learn", "my.npz", "--output", "my.prior"]) == 130
    assert capsys.readouterr().err == "optuna-aelle: interrupted.\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def wait_until_it_listens(pid: int) -> None:
    """Wait until a process has a handler for alarms, as the program while a command runs."""
    status = Path(f"/proc/{pid}/status")
    if not status.is_file():
        time.sleep(10.0)
        return
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        (caught,) = re.findall(r"^SigCgt:\s*([0-9a-f]+)$", status.read_text(), re.MULTILINE)
        if int(caught, 16) >> (signal.SIGALRM - 1) & 1:
            return
        time.sleep(0.05)
    raise AssertionError("The program has not begun after two minutes.")


@pytest.mark.slow
def test_an_interruption_ends_the_program_quietly(source: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "replay", source, "--repeats", "9999", "--figure", "f.html"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as program:
        try:
            wait_until_it_listens(program.pid)
            time.sleep(2.0)
            program.send_signal(signal.SIGINT)
            out, err = program.communicate(timeout=60)
        finally:
            program.kill()
    # Where it came through code that was executed from a string, as while named tuples are made
    # within imports, `python -m` ends with the signal instead: 130, too, as shells see it.
    assert program.returncode in (130, -signal.SIGINT), err
    assert not out
    assert err.splitlines()[-1] == "optuna-aelle: interrupted."
    assert "optuna-aelle" not in "".join(err.splitlines()[:-1])


@pytest.mark.slow
def test_whoever_has_read_enough_is_not_complained_to(source: str) -> None:
    command = " ".join([*PROGRAM, "explain", source, "--trial", "3", "--json"])
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "{\n0\n"
    assert not done.stderr


def test_a_trial_is_explained(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "trial.html"
    arguments = ["explain", source, "--trial", "3", "--figure", str(figure)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("trial 3 of 'mine': complete")
    assert "spectrum" in out
    assert "trial 3" in figure.read_text()
    assert main([*arguments, "--json"]) == 0
    explained = json.loads(capsys.readouterr().out)
    assert explained["trial"]["number"] == 3
    assert main(["explain", source, "--trial", "25"]) == 2
    assert "numbered 0 to 24" in capsys.readouterr().err


def test_a_trial_of_a_table_has_the_number_that_it_had(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = optuna.load_study(study_name="mine", storage=source)
    recorded = optuna_aelle.RecordedTrials.from_study(study)
    some = optuna_aelle.RecordedTrials(
        name="some",
        direction="minimize",
        trials=recorded.trials[4:9],
        step_seconds=recorded.step_seconds[4:9],
    )
    some.save(tmp_path / "some.npz")
    assert main(["explain", str(tmp_path / "some.npz"), "--trial", "6", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["trial"]["value"] == study.trials[6].value
    assert not printed.err


def test_each_objective_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage, png = f"sqlite:///{tmp_path / 'my.db'}", tmp_path / "t.png"
    study = optuna.create_study(storage=storage, directions=["minimize", "maximize"])
    study.add_trial(optuna.trial.create_trial(values=[1.0, 7.0]))
    arguments = ["explain", storage, "--trial", "0", "--objective"]
    assert main([*arguments, "1", "--figure", str(png)]) == 0
    assert "value 7 in objective 1" in capsys.readouterr().out
    assert png.exists()
    assert main([*arguments, "2"]) == 2
    assert "objective from 0 to 1" in capsys.readouterr().err


def test_words_of_a_png_stand_where_they_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    from optuna_aelle.cli.pictures import draw_png

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    figure = go.Figure(go.Scatter(x=[-30.0, 20.0], y=[5.0, 9.0]))
    for x, name in ((-30.0, "left"), (20.0, "right")):
        figure.add_annotation(x=x, y=5.0, text=name, showarrow=False)
    figure.add_annotation(x=0.5, y=0.5, xref="paper", yref="paper", text="middle")
    draw_png(figure, tmp_path / "f.png")
    (panel,) = drawn[0].axes
    places = {text.get_text(): (text.xy, text.xycoords) for text in panel.texts}
    assert places == {
        "left": ((-30.0, 5.0), "data"),
        "right": ((20.0, 5.0), "data"),
        "middle": ((0.5, 0.5), "axes fraction"),
    }


@pytest.mark.parametrize("suffix", [".html", ".png"])
def test_figures_are_drawn_into_a_folder(
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
) -> None:
    from optuna_aelle.visualization._latent_map import draw_latent_map

    # Without waiting for UMAP.
    drawn = plots.figures() | {"latent-map": draw_latent_map}
    monkeypatch.setattr(plots, "figures", lambda: drawn)
    folder = tmp_path / "new" / "figures"
    assert main(["plots", source, "--output", str(folder), "--format", suffix[1:]]) == 0
    out = capsys.readouterr().out
    if suffix == ".html":
        page = (folder / "index.html").read_text()
        assert f"{len(drawn)} figures of mine" in out
        assert page.count('class="plotly-graph-div"') == len(drawn)
        # Nothing is fetched: plotly.js is in it, once.
        assert 3_000_000 < len(page) < 8_000_000
        assert "<script src=" not in page
    else:
        assert {path.stem for path in folder.iterdir()} == {*drawn}
        for path in folder.iterdir():
            assert path.read_bytes().startswith(b"\x89PNG")


def test_figures_go_into_the_dashboard(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna_dashboard")
    assert main(["plots", source, "--dashboard"]) == 0
    assert "figures are in the study mine" in capsys.readouterr().out
    study = optuna.load_study(study_name="mine", storage=source)
    keys = study._storage.get_study_system_attrs(study._study_id)
    assert any("aelle-spectra" in key for key in keys)


def test_a_table_has_no_dashboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plots", str(tmp_path / "t.npz"), "--dashboard"]) == 2
    assert "Expected a storage to write into" in capsys.readouterr().err


def test_a_png_without_matplotlib_says_what_to_install(
    source: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = ["explain", source, "--trial", "1", "--figure", "t.png"]
    assert "ask for .html" in refused(arguments, "pip install matplotlib", capsys)


def test_a_prior_is_learned_from_storages_and_tables(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = optuna.create_study(study_name="other", storage=source)
    run_synthetic(other, 9, n_steps=3)
    optuna.create_study(study_name="both", storage=source, directions=["minimize"] * 2)
    run_synthetic(optuna.create_study(study_name="short", storage=source), 3, n_steps=3)
    table, output = tmp_path / "t.npz", tmp_path / "my.prior"
    recorded = optuna_aelle.RecordedTrials.from_study(other)
    recorded.save(table)
    assert main(["learn", source, str(table), "--output", str(output)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Learned from 3 studies with 43 trials that have ended, ")
    assert "43 with the spectrum" in printed.out
    assert "  mine: 25 trials\n  other: 9 trials\n" in printed.out
    assert "Known by their own name alone: noise." in printed.out
    assert "On top of a prior that has learned from" in printed.out
    assert "several objectives are left out: both." in printed.err
    assert "Nothing is learned from 'short'" in printed.err
    prior = optuna_aelle.Prior.load(output)
    assert prior.past is not None
    assert len(prior.past.rows) == 43
    assert prior.tasks > optuna_aelle.Prior.pretrained().tasks
    # From one of them, on top of nothing, with a name of one's own.
    own = ["--base", "none", "--study-name", "oth", "--knob", "noise=dropout"]
    assert main(["learn", source, "--output", str(output), *own]) == 0
    printed = capsys.readouterr()
    assert "Learned from 1 study with 9 trials" in printed.out
    assert "noise (dropout)" in printed.out
    assert "On top" not in printed.out
    assert optuna_aelle.Prior.load(output).tasks == {"other"}
    # And on top of that one.
    assert (
        main(
            ["learn", source, "--study-name", "mine", "--base", str(output)]
            + own[4:]
            + ["--output", str(output)]
        )
        == 0
    )
    assert optuna_aelle.Prior.load(output).tasks == {"mine", "other"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "nowhere.prior"], "there is no file 'nowhere.prior'"),
        (["--base", "{source}"], "nowhere"),
        (["--knob", "lr"], "--knob expects OWN=COMMON"),
        (["--knob", "lr=nonsense"], "Expected knobs to map 'lr' to one of"),
        (["--study-name", "nope"], "Expected one of the studies ['mine'], got 'nope'."),
    ],
)
def test_mistakes_of_learning_are_one_line(
    source: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    filled = [argument.format(source=tmp_path / "nowhere") for argument in arguments]
    output = str(tmp_path / "my.prior")
    refused(["learn", source, *filled, "--output", output], message, capsys)
    assert not (tmp_path / "my.prior").exists()


def test_names_of_strangers_are_shown_and_not_obeyed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "</title><script>alert(1)</script>\x1b[31m"
    storage = f"sqlite:///{tmp_path / 'my.db'}"
    study = optuna.create_study(study_name=name, storage=storage)
    run_synthetic(study, 12, n_steps=3)
    figure = tmp_path / "f.html"
    assert main(["replay", storage, "--repeats", "1", "--figure", str(figure)]) == 0
    assert main(["explain", storage, "--trial", "2"]) == 0
    assert "\x1b" not in "".join(capsys.readouterr())
    assert "<script>alert" not in figure.read_text()
    assert "&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in figure.read_text()


def test_what_is_printed_as_json_any_parser_reads(capsys: pytest.CaptureFixture[str]) -> None:
    outputs.print_json({"a": float("nan"), 3: (float("inf"), None, True), "p": Path("x")})
    assert json.loads(capsys.readouterr().out) == {"a": None, "3": [None, None, True], "p": "x"}
