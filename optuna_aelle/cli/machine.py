"""What `doctor` finds out about the machine that it runs on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from importlib import metadata

import torch
from packaging.requirements import Requirement
from threadpoolctl import threadpool_info

from optuna_aelle.cli.known import error_of_known_spectrum
from optuna_aelle.decisions.diagnosis import Finding
from optuna_aelle.lyapunov.compiled import general_path
from optuna_aelle.prediction.prior import Prior

_PACKAGE = "optuna-aelle"
_OPTIONAL = {
    "optuna-dashboard": "figures in the dashboard",
    "umap-learn": "the latent map by UMAP (by PCA without)",
    "matplotlib": "figures as PNG",
}
# What is left of rounding errors after some hundred steps is far below.
_TOLERANCE = 1e-6


def of_machine(compiled: subprocess.Popen[bytes], deadline: float) -> list[Finding]:
    """Versions, devices, threads, the prior, and the engine against a known spectrum.

    Args:
        compiled: One that runs `optuna_aelle.cli.known`.
        deadline: When to wait no longer for it, on `time.monotonic`.
    """
    found = [*_versions(), _devices(), _threads(), _prior(), _engine()]
    return [*found, _compiled(compiled, max(deadline - time.monotonic(), 0.1))]


def _versions() -> Iterator[Finding]:
    wanted = [Requirement(text) for text in metadata.requires(_PACKAGE) or []]
    own = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    there = {requirement.name: _version(requirement.name) for requirement in own}
    wrong = [
        f"{requirement} ({there[requirement.name] or 'not installed'})"
        for requirement in own
        if not requirement.specifier.contains(there[requirement.name] or "0", prereleases=True)
    ]
    names = [f"{name} {version}" for name, version in there.items() if version]
    said = f"{_PACKAGE} {_version(_PACKAGE)}, Python {platform.python_version()}, "
    if wrong:
        advice = f"Run: pip install -U {_PACKAGE}"
        yield Finding("problem", "versions", f"expected {', '.join(wrong)}", advice)
    yield Finding("ok", "versions", said + ", ".join(names), "")
    for name, use in _OPTIONAL.items():
        if _version(name) is None:
            advice = f"If you want {use}: pip install {name}"
            yield Finding("note", "versions", f"{name} is not installed", advice)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> Finding:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = f"{_cores()} of {os.cpu_count()} cores for this process, {platform.machine()}"
    if gpus:
        return Finding("ok", "devices", f"{cores}; {', '.join(gpus)}", "")
    if torch.version.cuda is not None:
        return Finding(
            "note",
            "devices",
            f"{cores}; PyTorch was built for CUDA {torch.version.cuda}, but finds no GPU",
            "If there should be one, see whether nvidia-smi finds it.",
        )
    return Finding("ok", "devices", f"{cores}; no GPU", "")


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _threads() -> Finding:
    from numba import config

    # Not numba.get_num_threads, which starts them, and sets those of OpenMP beside.
    pools = {"PyTorch": torch.get_num_threads(), "Numba": config.NUMBA_NUM_THREADS}
    for pool in threadpool_info():
        name = {"blas": "BLAS", "openmp": "OpenMP"}.get(pool["user_api"], pool["user_api"])
        pools[f"{name} ({pool['prefix']})"] = pool["num_threads"]
    said = ", ".join(f"{name} {n}" for name, n in pools.items())
    set_to = os.environ.get("OMP_NUM_THREADS")
    said += f"; OMP_NUM_THREADS is {set_to or 'not set'}"
    many = [name for name, n in pools.items() if n > _cores()]
    if many:
        return Finding(
            "note",
            "threads",
            f"{said}: more than the {_cores()} cores of this process ({', '.join(many)})",
            f"Set OMP_NUM_THREADS={_cores()}, or less where several workers share them.",
        )
    return Finding("ok", "threads", said, "")


def _prior() -> Finding:
    try:
        prior = Prior.pretrained()
    except (ValueError, OSError) as error:
        advice = f"Run: pip install --force-reinstall {_PACKAGE}"
        return Finding("problem", "prior", str(error), advice)
    return Finding("ok", "prior", f"intact, learned from {len(prior.tasks)} tasks", "")


def _engine() -> Finding:
    with general_path():
        error, _ = error_of_known_spectrum()
    return _judged("engine, PyTorch", error)


def _compiled(process: subprocess.Popen[bytes], seconds: float) -> Finding:
    subject = "engine, compiled"
    try:
        out, _ = process.communicate(timeout=seconds)
        error, ran = json.loads(out)
    except subprocess.TimeoutExpired:
        return Finding(
            "note",
            subject,
            "not compiled yet for this machine, or it is very busy",
            "Nothing to do: the first spectrum compiles it, which takes a minute at most, once.",
        )
    except ValueError:
        return Finding(
            "problem",
            subject,
            f"a process that was to run it ended with status {process.returncode}",
            "See what it says: python -m optuna_aelle.cli.known",
        )
    if not ran:
        return Finding(
            "note",
            subject,
            "Numba cannot be loaded: spectra are right, and take several times longer",
            "Reinstall numba and llvmlite, and see that NUMBA_DISABLE_JIT is not set.",
        )
    return _judged(subject, float(error))


def _judged(subject: str, error: float) -> Finding:
    if error < _TOLERANCE:
        said = f"a known spectrum comes out within {error:.0e}"
        return Finding("ok", subject, said, "")
    return Finding(
        "problem",
        subject,
        f"a known spectrum comes out {error:.1e} off",
        "Please report it, with the versions above.",
    )
