"""Full disks, damaged files, and files by which somebody means harm."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

import optuna_aelle
from optuna_aelle import AeLLERegressor
from optuna_aelle import AeLLEWarning
from optuna_aelle import Checkpoints
from optuna_aelle import Prior
from optuna_aelle import RecordedTrials
from optuna_aelle.decisions.states import read_states
from optuna_aelle.trials.continuation import decode_checkpoints
from optuna_aelle.trials.storage import write_system_attributes
from tests.conftest import made_trials
from tests.conftest import skip_unless_required

PACKAGE = Path(optuna_aelle.__file__).parent


def table() -> RecordedTrials:
    study = optuna.create_study(study_name="files")
    study.add_trials(made_trials(9))
    return RecordedTrials.from_study(study)


def prior() -> Prior:
    return Prior.learn([table()], base=None)


def regressor() -> AeLLERegressor:
    rng = np.random.default_rng(0)
    estimator = AeLLERegressor(latent_dim=2, n_members=2, n_steps=3, random_state=0)
    return estimator.fit(-rng.random((12, 6)).cumsum(axis=1), rng.random(12))


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "table": (table, RecordedTrials.load),
    "prior": (prior, Prior.load),
    "regressor": (regressor, AeLLERegressor.load),
}
kinds = pytest.mark.parametrize("kind", sorted(KINDS))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KB where that can be had, else a limit on the size of files."""
    resource = pytest.importorskip("resource")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.getuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@kinds
def test_a_full_disk_leaves_the_old_file(kind: str, small_disk: Path) -> None:
    make, load = KINDS[kind]
    path = small_disk / "saved.npz"
    small = make()
    small.save(path)
    before = path.read_bytes()
    (small_disk / "filling").write_bytes(bytes(60 * 1024 - len(before) // 4096 * 4096 - 8192))
    if kind == "table":
        study = optuna.create_study(study_name="large")
        study.add_trials(made_trials(900))
        large: Any = RecordedTrials.from_study(study)
    elif kind == "prior":
        large = Prior.pretrained()
    else:
        rng = np.random.default_rng(0)
        wide = AeLLERegressor(n_members=2, hidden_dim=256, n_steps=1)
        large = wide.fit(-rng.random((12, 64)), rng.random(12))
    with pytest.raises(OSError, match=r"space left|too large"):
        large.save(path)
    assert path.read_bytes() == before
    assert sorted(os.listdir(small_disk)) == ["filling", "saved.npz"]
    load(path)


@kinds
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_is_written_to_and_not_replaced(kind: str, tmp_path: Path) -> None:
    make, load = KINDS[kind]
    pipe, received = tmp_path / "pipe", tmp_path / "received.npz"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.write_bytes(pipe.read_bytes()), daemon=True)
    reader.start()
    make().save(pipe)
    assert pipe.is_fifo()
    reader.join(60)
    load(received)


@kinds
@pytest.mark.skipif(sys.platform != "linux", reason="The number of the device is Linux's")
def test_a_full_device_is_told_and_not_replaced(kind: str, tmp_path: Path) -> None:
    make, _ = KINDS[kind]
    full = Path("/dev/full")
    if os.access(full.parent, os.W_OK):
        # One of this test's own: were it replaced, so would be that of the whole machine.
        full = tmp_path / "full"
        try:
            os.mknod(full, stat.S_IFCHR | 0o600, os.makedev(1, 7))
        except PermissionError:
            skip_unless_required("no devices can be made")
    with pytest.raises(OSError, match="No space left"):
        make().save(full)
    assert full.is_char_device()


@kinds
def test_a_link_leads_to_what_is_replaced(kind: str, tmp_path: Path) -> None:
    make, load = KINDS[kind]
    target, link = tmp_path / "target.npz", tmp_path / "link"
    make().save(target)
    os.chmod(target, 0o640)
    link.symlink_to(target)
    make().save(link)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    load(link)


@kinds
def test_a_name_may_be_as_long_as_names_can_be(kind: str, tmp_path: Path) -> None:
    make, load = KINDS[kind]
    path = tmp_path / ("€" * 83 + ".npz")
    make().save(path)
    load(path)
    assert os.listdir(tmp_path) == [path.name]


def test_a_full_disk_costs_checkpoints_and_nothing_else(small_disk: Path) -> None:
    study = optuna.create_study(pruner=optuna.pruners.NopPruner())
    checkpoints = Checkpoints(small_disk)

    def objective(trial: optuna.Trial) -> float:
        # About 33 KB each, of which the disk takes one.
        model = torch.nn.Linear(128, 64)
        for epoch in checkpoints.epochs(trial, 3, model=model):
            trial.report(1.0, epoch)
        return 1.0

    with pytest.warns(AeLLEWarning) as caught:
        study.optimize(objective, n_trials=3)
    assert len([w for w in caught if "could not be saved" in str(w.message)]) == 1
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 3
    listed = {s.artifact for t in study.trials for s in decode_checkpoints(t)}
    # No halves lie about, which would fill the disk for good.
    assert set(os.listdir(small_disk)) == listed


def bomb(folder: Path) -> Path:
    """Four gigabytes of zeros in four megabytes."""
    path = folder / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.npy", npy(np.array("{}")))
        with archive.open("numbers.npy", "w", force_zip64=True) as member:
            member.write(npy(np.zeros(1)).replace(b"(1,), }         ", b"(536870913,), } "))
            for _ in range(257):
                member.write(bytes(2**24))
    return path


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


class Harm:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def harmful(kind: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Files that a careless reader would choke on, or obey."""
    make, _ = KINDS[kind]
    sound = folder / "sound.npz"
    make().save(sound)
    content = sound.read_bytes()
    file = np.load(sound)
    arrays = {name: file[name] for name in file.files}

    def write(name: str, data: bytes) -> tuple[str, Path]:
        path = folder / name
        path.write_bytes(data)
        return name, path

    def archive(name: str, **others: Any) -> tuple[str, Path]:
        np.savez(folder / f"{name}.npz", **{**arrays, **others})
        return name, folder / f"{name}.npz"

    array = sorted(name for name in arrays if name != "metadata")[0]
    yield write("empty", b"")
    yield write("half", content[: len(content) // 2])
    yield write("no start", content[len(content) // 2 :])
    yield write("text", b"not a file of ours")
    yield write("pickle", pickle.dumps(Harm(folder / "mark")))
    yield archive("objects", **{array: np.array([Harm(folder / "mark")], dtype=object)})
    yield archive("pickled metadata", metadata=np.array(Harm(folder / "mark"), dtype=object))
    yield archive("scalar", **{array: np.array(1.0)})
    yield archive("words", **{array: np.array(["a", "b"])})
    yield archive("foreign", metadata=np.array(json.dumps({"kind": "else"})))
    yield archive("deep", metadata=np.array("[" * 100_000))
    yield archive("list", metadata=np.array("[]"))
    yield archive("version", metadata=np.array(json.dumps({"format_version": "newest"})))
    yield write("one array", npy(np.zeros(3)))
    (folder / "folder").mkdir()
    yield "folder", folder / "folder"
    os.mkfifo(folder / "pipe")
    yield "pipe", folder / "pipe"
    yield "device", Path("/dev/zero")
    huge = npy(np.zeros(1)).replace(b"(1,), }               ", b"(1000000000000000,), }")
    with zipfile.ZipFile(folder / "claim.npz", "w") as out:
        out.writestr("metadata.npy", npy(arrays["metadata"]))
        out.writestr(f"{array}.npy", huge)
    yield "claim", folder / "claim.npz"
    # Text of no characters takes no bytes, however much there is of it.
    nothing = npy(np.zeros(1, dtype="U1")).replace(b"<U1", b"<U0")
    nothing = nothing.replace(b"(1,), }               ", b"(1000000000000000,), }")
    with zipfile.ZipFile(folder / "nothing.npz", "w") as out:
        for name, held in arrays.items():
            out.writestr(f"{name}.npy", npy(held))
        out.writestr("more.npy", nothing)
    yield "nothing", folder / "nothing.npz"


@kinds
def test_files_that_mean_harm_are_told(kind: str, tmp_path: Path) -> None:
    _, load = KINDS[kind]
    for name, path in harmful(kind, tmp_path):
        with pytest.raises(ValueError, match="Expected a file written by") as caught:
            load(path)
        assert str(path) in str(caught.value), name
        assert len(str(caught.value)) < 600, name
    assert not (tmp_path / "mark").exists()
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing.npz")


@pytest.mark.slow
def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    status = Path("/proc/self/status")
    if not status.exists() or "VmHWM:" not in status.read_text():
        pytest.skip("The system does not tell the most memory that a process has had")
    path = bomb(tmp_path)
    assert path.stat().st_size < 2**23
    code = f"""
import re
from optuna_aelle import AeLLERegressor, Prior, RecordedTrials
for kind in AeLLERegressor, Prior, RecordedTrials:
    try:
        kind.load({str(path)!r})
    except ValueError as error:
        assert "would hold more than 2 GiB" in str(error), error
    else:
        raise AssertionError(kind)
# Of this process alone, where `ru_maxrss` begins with that of its parent.
print(re.search(r"VmHWM:\\s+(\\d+) kB", open({str(status)!r}).read())[1])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Kilobytes: what the imports take, and not what the file says.
    assert int(ran.stdout) < 2 * 2**20


def checkpoint_in(folder: Path, content: Callable[[Path], None]) -> optuna.Study:
    """A study whose trial lists one checkpoint, which is something else."""
    study = optuna.create_study()
    trial = study.ask()
    artifact = "no-name-trial-0-epoch-1-0123abcd.pt"
    listed = {"epoch": 1, "reports": 2, "artifact": artifact}
    payload = {"version": 1, "n_epochs": 3, "saved": [listed]}
    write_system_attributes(study, trial, {"aelle:checkpoints": payload})
    content(folder / artifact)
    return study


def compressed(path: Path) -> None:
    torch.save({"states": {"model": {"x": torch.zeros(2**22)}}}, path)
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old:
        members = [(m.filename, old.read(m)) for m in old.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members:
            new.writestr(name, data)


UNEXPECTED: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),  # which Windows lacks
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "dangling": lambda path: path.symlink_to("/nowhere"),
    "text": lambda path: path.write_text("<script>alert(1)</script>"),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Harm(path.parent / "mark"))),
    "torch": lambda path: torch.save({"states": {"model": Harm(path.parent / "mark")}}, path),
    "legacy": lambda path: torch.save(
        {"states": {"model": torch.nn.Linear(2, 1).state_dict()}},
        path,
        _use_new_zipfile_serialization=False,
    ),
    "compressed": compressed,
    "other shapes": lambda path: torch.save(
        {"states": {"model": torch.nn.Linear(9, 9).state_dict()}}, path
    ),
    "list": lambda path: torch.save([1, 2], path),
}


@pytest.mark.parametrize("what", sorted(UNEXPECTED))
def test_a_checkpoint_that_is_something_else_is_left_alone(what: str, tmp_path: Path) -> None:
    study = checkpoint_in(tmp_path, UNEXPECTED[what])
    model = torch.nn.Linear(2, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.warns(AeLLEWarning, match="cannot be used") as caught:
        assert Checkpoints(tmp_path).restore(study.trials[0], model=model) is None
    assert len(caught) == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "artifact",
    [
        "../outside-trial-0-epoch-1-0123abcd.pt",
        "{folder}/outside-trial-0-epoch-1-0123abcd.pt",
        "a/b-trial-0-epoch-1-0123abcd.pt",
        "..",
        "x\x00-trial-0-epoch-1-0123abcd.pt",
        "a" * 5000,
        7,
    ],
)
def test_a_listed_name_leads_nowhere_else(artifact: Any, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    outside = tmp_path / "outside-trial-0-epoch-1-0123abcd.pt"
    outside.write_bytes(b"precious")
    if isinstance(artifact, str):
        artifact = artifact.format(folder=tmp_path)
    checkpoints = Checkpoints(folder)
    study = optuna.create_study()

    def objective(trial: optuna.Trial) -> float:
        listed = [{"epoch": 0, "reports": 0, "artifact": artifact}] * 3
        payload = {"version": 1, "n_epochs": 3, "saved": listed}
        write_system_attributes(study, trial, {"aelle:checkpoints": payload})
        for epoch in checkpoints.epochs(trial, 3, model=torch.nn.Linear(2, 1)):
            trial.report(1.0, epoch)
        return 1.0

    with pytest.warns(AeLLEWarning, match="aelle:checkpoints' cannot be read"):
        study.optimize(objective, n_trials=1)
    assert study.trials[0].state == TrialState.COMPLETE
    assert outside.read_bytes() == b"precious"
    assert all(path.parent == folder for path in folder.rglob("*"))


NAMES = ["../../x", "a/b\\c", "/nowhere/x", "..", "x\x00y", "n" * 1000, "ä" * 400, "<script>"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_studies_stay_within_their_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    study = optuna.create_study(study_name=name)
    checkpoints = Checkpoints(folder)

    def objective(trial: optuna.Trial) -> float:
        for epoch in checkpoints.epochs(trial, 2, model=torch.nn.Linear(2, 1)):
            trial.report(1.0, epoch)
        return 1.0

    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    listed = {checkpoint.artifact for checkpoint in decode_checkpoints(trial)}
    assert listed == set(os.listdir(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert checkpoints.restore(trial, model=torch.nn.Linear(2, 1)) == 1
    RecordedTrials.from_study(study).save(tmp_path / "table.npz")
    assert RecordedTrials.load(tmp_path / "table.npz").name == name


def test_what_torch_writes_is_read() -> None:
    states: dict[str, Any] = {
        "a": torch.randn(3),
        "b": [1, {"c": torch.zeros(2, 2).double()}],
        "d": None,
    }
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    read = read_states(file)
    assert list(read) == ["a", "b", "d"]
    assert torch.equal(read["a"], states["a"])
    one, nested = read["b"]
    assert (one, list(nested)) == (1, ["c"])
    assert nested["c"].dtype == torch.float64
    assert torch.equal(nested["c"], states["b"][1]["c"])
    assert read["d"] is None


# What can run code that lies in data.
UNSAFE_MODULES = {"pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
SAFE_IF = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}


def unsafe(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            if name.split(".")[0] in UNSAFE_MODULES:
                yield f"{node.lineno}: imports {name}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {k.arg: k.value for k in node.keywords}
            if called in UNSAFE_CALLS or called.startswith(("yaml.", "os.system", "os.popen")):
                yield f"{node.lineno}: {called}"
            argument, safe = SAFE_IF.get(called, ("", None))
            value = given.get(argument)
            is_safe = isinstance(value, ast.Constant) and value.value is safe
            if argument and not is_safe:
                yield f"{node.lineno}: {called} without {argument}={safe}"
            if {"allow_pickle": True, "weights_only": False, "shell": True}.items() & {
                (name, x.value)
                for name, x in given.items()
                if isinstance(x, ast.Constant) and name
            }:
                yield f"{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    assert list(unsafe(path)) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
    ],
)
def test_what_is_looked_for_is_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(line)
    assert len(list(unsafe(tmp_path / "code.py"))) >= 1
