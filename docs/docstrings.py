"""How docstrings are read for the site: their examples, and the names that they mention."""

from __future__ import annotations

import re
from typing import Any

import griffe

import optuna_aelle

_EXAMPLE = re.compile(r"^( *)Example:$", flags=re.MULTILINE)
_NAME = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)")


class Docstrings(griffe.Extension):  # type: ignore[misc]
    """``Example:`` is a section of code, and a public name in backticks a link to its page."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = _EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
            obj.docstring.value = "\n".join(
                line if line.lstrip().startswith((">>>", "...")) else _NAME.sub(_linked, line)
                for line in text.split("\n")
            )


def _linked(match: re.Match[str]) -> str:
    name = match[1].removeprefix("optuna_aelle.")
    public = name.split(".")[0] in optuna_aelle.__all__
    return f"[`{match[1]}`][optuna_aelle.{name}]" if public else match[0]
