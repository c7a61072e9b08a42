"""What importing the package brings along, and that every public name is there."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

import optuna_aelle


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", optuna_aelle.__all__)
def test_every_public_name_loads_and_is_documented(name: str) -> None:
    thing = getattr(optuna_aelle, name)
    assert thing.__doc__
    assert name in dir(optuna_aelle)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'spectrum_of'"):
        _ = optuna_aelle.spectrum_of


def test_import_is_light() -> None:
    code = "import sys, optuna_aelle; print([m for m in ('torch', 'optuna') if m in sys.modules])"
    assert run(code) == "[]"


def test_the_engine_needs_no_optuna() -> None:
    assert (
        run(
            """
            import sys
            for name in ("optuna", "sklearn", "plotly", "scipy"):
                sys.modules[name] = None
            import torch
            from optuna_aelle.lyapunov import lyapunov_spectrum
            print(lyapunov_spectrum(torch.nn.GRU(1, 3), torch.zeros(30, 1, 1)).exponents.shape)
            """
        )
        == "(1, 3)"
    )


def test_records_need_no_torch() -> None:
    assert (
        run(
            """
            import sys
            sys.modules["torch"] = None
            from optuna_aelle.trials.attributes import encode_spectrum
            print(list(encode_spectrum([-1.0, -2.0], 0)))
            """
        )
        == "['aelle:spectrum:0']"
    )
