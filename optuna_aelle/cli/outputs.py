"""What commands write: lines, JSON, files; names of strangers do no harm in any of them."""

from __future__ import annotations

import html
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

PICTURES = (".html", ".png")
# What stands between :// and the host of a URL; of a path that looks like one a slash is lost.
_SECRET = re.compile(r":(/+)\S*@")
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body {{ margin: 1rem; font-family: Roboto, Helvetica, Arial, sans-serif; }}</style>
</head>
<body>
{body}
</body>
</html>
"""


def one_line(error: BaseException | str) -> str:
    """What an error says first, without a password: databases go on with queries and links."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(_SECRET.sub(r":\1***@", " ".join(lines[0].split())))


def printable(text: str) -> str:
    """Text that a terminal shows, and does not obey; line breaks stay."""
    return "".join(x if x.isprintable() or x == "\n" else ascii(x)[1:-1] for x in text)


def print_json(payload: Any) -> None:
    """Print what any JSON parser reads: what is not finite is null."""
    print(json.dumps(_plain(payload), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def on_a_terminal() -> bool:
    """Whether somebody watches: a log file needs no progress bar."""
    return sys.stderr.isatty()


@contextmanager
def notes() -> Iterator[None]:
    """Print each of our warnings once, after what it comes from, and none of others."""
    from optuna_aelle._warnings import AeLLEWarning

    with warnings.catch_warnings(record=True) as caught:
        # Warnings of others are nobody's business here, nor later, when what they left is cleared.
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", AeLLEWarning)
        yield
    for message in dict.fromkeys(str(w.message) for w in caught):
        print(f"Note: {printable(message)}", file=sys.stderr)


def check_file(option: str, path: Path | None, suffixes: tuple[str, ...] = ()) -> None:
    """Before minutes of computing, not after.

    Raises:
        ValueError: The file cannot be written, or its name ends otherwise.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{option} expects a file to write, but {str(path)!r} is a folder.")
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(
            f"{option} expects a file that ends in {' or '.join(suffixes)}, got {str(path)!r}."
        )
    if not path.parent.is_dir():
        raise ValueError(
            f"{option} expects a file in a folder that exists, but there is no folder "
            f"{str(path.parent)!r}."
        )
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{option} expects a file to write, but {str(path)!r} is read-only.")
    if path.suffix.lower() == ".png":
        check_png()


def check_folder(option: str, path: Path) -> None:
    """The same of a folder, which may be missing.

    Raises:
        ValueError: Nothing can be written there.
    """
    if re.match(r"[\w+]+:/", str(path)):
        # A storage, which may hold a password: it is not repeated.
        raise ValueError(f"{option} expects a folder, but got a URL.")
    if path.exists() and not path.is_dir():
        raise ValueError(f"{option} expects a folder, but {str(path)!r} is a file.")
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(
            f"{option} expects a folder to write into, but in {str(there)!r} nothing can be "
            "written."
        )


def check_png() -> None:
    """Whether pictures can be drawn.

    Raises:
        ValueError: Matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "A PNG needs Matplotlib, which cannot be imported. Run: pip install matplotlib, or "
            "ask for .html, which needs nothing."
        ) from error


def write_figure(path: Path, figure: go.Figure, title: str) -> None:
    """One figure, as a page or a picture, whichever ``path`` ends in."""
    if path.suffix.lower() == ".png":
        from optuna_aelle.cli.pictures import draw_png

        draw_png(figure, path)
    else:
        write_page(path, [figure], title)


def write_page(path: Path, figures: list[go.Figure], title: str) -> None:
    """Figures below each other in one page that needs no network: plotly.js is in it."""
    import plotly.io

    parts = [
        plotly.io.to_html(
            figure,
            # Once; no MathJax, which would be fetched for names with dollars.
            include_plotlyjs=index == 0,
            include_mathjax=False,
            full_html=False,
            div_id=f"figure-{index}",
            default_height="600px",
            config={"displaylogo": False, "showSendToCloud": False},
        )
        for index, figure in enumerate(figures)
    ]
    page = _PAGE.format(title=html.escape(printable(title)), body="\n".join(parts))
    path.write_text(page, encoding="utf-8", errors="backslashreplace")
