"""What the site shows of the repository beyond ``docs/``: pages, figures, results.

A page links to any file of the repository by its relative path, which a git host follows as it
stands. For the site each file outside ``docs/`` that is linked to lies at its own path beside the
pages (``benchmarks/results/live.png``), without a copy in the repository, and links are turned
accordingly. Markdown is a page, the rest is copied.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

# Pages of the site that lie elsewhere; what they link to follows by itself.
ROOT_PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")

_FENCED = re.compile(r"(^ *```.*?^ *``` *$)", flags=re.MULTILINE | re.DOTALL)
_FIGURE = re.compile(r"""(<img [^>]*src="([^"]+\.png)"[^>]*>)(?!</a>)""")
_TARGET = re.compile(r"\]\(([^()\s#:]+)(#[^()\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages that lie elsewhere, and all that is linked to from any page."""
    root = Path(config.config_file_path).parent
    seen = {Path(str(file.abs_src_path)) for file in files}
    waiting = [path for path in seen if path.suffix == ".md"]
    waiting += [root / name for name in ROOT_PAGES]
    while waiting:
        source = waiting.pop()
        if source not in seen:
            seen.add(source)
            place = _place(source, config)
            files.append(File.generated(config, place, abs_src_path=str(source)))
        if source.suffix == ".md":
            linked = set(_linked_files(source.read_text(encoding="utf-8"), source, root))
            waiting += sorted(linked - seen)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Turn links to files of the repository into links to their places on the site."""
    source = Path(str(page.file.abs_src_path))
    folder = posixpath.dirname(page.file.src_uri) or "."

    def turned(link: re.Match[str]) -> str:
        path = _resolved(link[1], source)
        if not path.is_file():
            return link[0]  # which a strict build refuses
        return f"]({posixpath.relpath(_place(path, config), folder)}{link[2] or ''})"

    parts = _FENCED.split(markdown)
    return "".join(
        part if i % 2 else _TARGET.sub(turned, part)
        for i, part in enumerate(parts)  # every second one is code
    )


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """A figure opens in full when it is clicked: phones show it small."""
    return _FIGURE.sub(r'<a href="\2" title="In full">\1</a>', html)


def on_page_context(context: dict[str, Any], page: Page, **_: Any) -> dict[str, Any]:
    """The home page has no siblings to list beside it."""
    if page.is_homepage:
        page.meta.setdefault("hide", []).append("navigation")
    return context


def _linked_files(markdown: str, source: Path, root: Path) -> Iterator[Path]:
    for part in _FENCED.split(markdown)[::2]:
        for link in _TARGET.finditer(part):
            path = _resolved(link[1], source)
            if path.is_file() and path.is_relative_to(root):
                yield path


def _resolved(target: str, source: Path) -> Path:
    return Path(posixpath.normpath(posixpath.join(source.parent.as_posix(), target)))


def _place(path: Path, config: MkDocsConfig) -> str:
    """Where a file of the repository lies among those of the site."""
    docs = Path(config.docs_dir)
    root = Path(config.config_file_path).parent
    return path.relative_to(docs if path.is_relative_to(docs) else root).as_posix()
