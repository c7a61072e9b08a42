"""An integration is imported where it is used, and says what to install where it is missing."""

from __future__ import annotations

import pytest

import optuna_aelle as aelle
from tests.test_import import run

FRAMEWORKS = ["lightning", "pytorch_lightning", "transformers", "keras", "skorch"]


def test_nothing_is_imported_before_it_is_used() -> None:
    code = f"""
        import sys
        import optuna_aelle as aelle
        aelle.integration, aelle.integration.attach
        print([m for m in {FRAMEWORKS} if m in sys.modules])
        """
    assert run(code) == "[]"


@pytest.mark.parametrize("name", [n for n in aelle.integration.__all__ if n != "attach"])
def test_what_is_missing_is_named(name: str) -> None:
    code = f"""
        import sys
        for framework in {FRAMEWORKS}:
            sys.modules[framework] = None
        import optuna_aelle as aelle
        try:
            aelle.integration.{name}
        except ImportError as error:
            print(error)
        """
    extra = name.removesuffix("Callback").removesuffix("_network").lower()
    said = run(code)
    assert f"pip install optuna-aelle[{extra}]" in said
    assert said.startswith(f"{name} needs ")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'JaxCallback'"):
        _ = aelle.integration.JaxCallback
    assert set(aelle.integration.__all__) <= set(dir(aelle.integration))
