"""A figure as PNG, by Matplotlib: machines that train have no browser, which plotly would need.

It draws what the figures of this package consist of: points, lines, filled ranges, error bars and
words on flat axes. Anything else is an error rather than half a picture.
"""

from __future__ import annotations

import html
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import matplotlib as mpl
import matplotlib.cm
import matplotlib.ticker
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.colors import Normalize
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from optuna_aelle.cli.outputs import printable

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.axes import Axes

_DPI = 150
_WIDTH, _HEIGHT = 1000, 600
_DASHES = {"dash": "--", "dot": ":", "dashdot": "-.", "solid": "-", "longdash": "--"}
_MARKERS = {
    **{"circle": "o", "circle-open": "o", "x": "X", "x-open": "X", "x-thin": "x", "cross": "P"},
    **{"diamond": "D", "diamond-open": "D", "square": "s", "square-open": "s", "star": "*"},
    **{"triangle-up": "^", "triangle-down": "v", "line-ns": "|", "line-ew": "_"},
    **{"x-thin-open": "x", "cross-thin": "+", "cross-thin-open": "+"},
}
# Colour names apart, CSS has `rgb(1, 2, 3)` and `rgba(1, 2, 3, .5)`.
_RGB = re.compile(r"rgba?\(([^)]*)\)")
# Where plotly places words, in the terms of Matplotlib.
_VERTICAL = {"top": "bottom", "middle": "center", "bottom": "top"}
_HORIZONTAL = {"left": "right", "center": "center", "right": "left"}
_ANCHORS = {"top": "top", "middle": "center", "bottom": "bottom", "auto": "center"}
_SHAPES = {"hv": "steps-post", "vh": "steps-pre"}
_PIXEL = 72.0 / 100.0


def draw_png(figure: go.Figure, path: Path) -> None:
    """Write a figure as PNG, about as a browser shows it.

    Args:
        figure: Of this package.
        path: Where to.

    Raises:
        ValueError: It holds something else than points, lines and words.
    """
    drawn = figure.to_dict()
    layout = drawn["layout"]
    # Points of 1/100 inch are what pixels are to plotly.
    picture = Figure((_WIDTH / 100, _HEIGHT / 100), layout="constrained")
    names = [name.removeprefix("xaxis") for name in layout if name.startswith("xaxis")] or [""]
    panels: dict[str, Axes] = {}
    for place, name in enumerate(names, start=1):
        panels[name] = picture.add_subplot(1, len(names), place)
        _dress(panels[name], layout.get(f"xaxis{name}", {}), layout.get(f"yaxis{name}", {}))
    # A name or a label may hold dollars, which would be read as mathematics.
    with mpl.rc_context({"text.parse_math": False, "font.family": "sans-serif"}):
        scale, before = _Scale(layout.get("coloraxis")), None
        for trace in drawn["data"]:
            if trace.get("type") not in ("scatter", "scattergl"):
                raise ValueError(
                    f"Expected a figure of points and lines, but it has a {trace.get('type')!r}, "
                    "which can be drawn as .html only."
                )
            _draw(panels[trace.get("xaxis", "x").removeprefix("x")], trace, before, scale)
            before = trace
        for note in layout.get("annotations", ()):
            _annotate(panels, note)
        for name, panel in panels.items():
            _limit(panel, layout.get(f"xaxis{name}", {}), layout.get(f"yaxis{name}", {}))
        scale.show(picture, list(panels.values()))
        _legend(picture, list(panels.values()), layout)
        title = _words(layout.get("title", {}).get("text"))
        picture.suptitle(title, x=0.02, ha="left", fontsize=11)
        picture.savefig(path, format="png", dpi=_DPI)


class _Scale:
    """The colour axis that points share."""

    def __init__(self, axis: dict[str, Any] | None) -> None:
        self.axis = axis or {}
        stops = self.axis.get("colorscale") or ["#000", "#000"]
        colors = [stop if isinstance(stop, str) else stop[1] for stop in stops]
        self.map = LinearSegmentedColormap.from_list("scale", [_rgba(c) for c in colors])
        if self.axis.get("reversescale"):
            self.map = self.map.reversed()
        self.norm = Normalize(self.axis.get("cmin"), self.axis.get("cmax"), clip=True)

    def show(self, picture: Figure, panels: list[Axes]) -> None:
        """Draw it beside the panels."""
        if self.axis.get("cmin") is None or self.axis.get("showscale") is False:
            return
        title = _words(self.axis.get("colorbar", {}).get("title", {}).get("text"))
        bar = picture.colorbar(mpl.cm.ScalarMappable(self.norm, self.map), ax=panels, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.set_title(title, fontsize=9)
        bar.ax.tick_params(labelsize=8)


def _draw(
    panel: Axes, trace: dict[str, Any], before: dict[str, Any] | None, scale: _Scale
) -> None:
    x, y = _points_of(trace)
    mode = trace.get("mode") or "lines"
    line, marker = trace.get("line") or {}, trace.get("marker") or {}
    label = _words(trace.get("name")) if trace.get("showlegend") is not False else "_"
    if not x or trace.get("visible", True) is not True or np.isnan(y).all():
        return
    opacity = trace.get("opacity", 1.0)
    fill = trace.get("fill")
    if fill not in (None, "none"):
        # Up to the trace before it, or within itself.
        back = _points_of(before) if fill == "tonexty" and before is not None else ([], [])
        panel.fill(
            x + back[0][::-1],
            y + back[1][::-1],
            color=_rgba(trace.get("fillcolor", "#ccc")),
            alpha=None if opacity == 1.0 else opacity,
            linewidth=0,
            label=label,
        )
        label = "_"
    if "lines" in mode and line.get("width", 2) > 0:
        panel.plot(
            x,
            y,
            color=_rgba(line.get("color", "#333")),
            linewidth=line.get("width", 2) * _PIXEL,
            linestyle=_DASHES.get(line.get("dash", "solid"), "-"),
            drawstyle=_SHAPES.get(str(line.get("shape")), "default"),
            alpha=opacity,
            label=label,
        )
        label = "_"
    if "markers" in mode and marker.get("opacity", 1) != 0:
        _points(panel, x, y, marker | {"alpha": opacity}, line, scale, label)
    for axis in ("x", "y"):
        error = trace.get(f"error_{axis}") or {}
        if error.get("array") is not None and error.get("visible", True):
            above = _numbers(error["array"])
            below = _numbers(error.get("arrayminus", error["array"]))
            panel.errorbar(
                x,
                y,
                xerr=[below, above] if axis == "x" else None,
                yerr=[below, above] if axis == "y" else None,
                fmt="none",
                ecolor=_rgba(error.get("color", marker.get("color", "#999"))),
                elinewidth=error.get("thickness", 2) * _PIXEL,
                capsize=error.get("width", 0) * _PIXEL / 2,
                zorder=1,
            )
    if "text" in mode:
        _labels(panel, x, y, trace)


def _points(
    panel: Axes,
    x: list[float],
    y: list[float],
    marker: dict[str, Any],
    line: dict[str, Any],
    scale: _Scale,
    label: str,
) -> None:
    color = marker.get("color", line.get("color", "#333"))
    colors: Any = _rgba(color) if isinstance(color, str) else None
    if colors is None:
        colors = [
            _rgba(c) if isinstance(c, str) else scale.map(scale.norm(c if c is not None else 0.0))
            for c in color
        ]
    symbols = marker.get("symbol") or "circle"
    sizes = marker.get("size", 6)
    each = [symbols] * len(x) if isinstance(symbols, str) else list(symbols)
    for symbol in dict.fromkeys(each):
        chosen = [i for i, other in enumerate(each) if other == symbol]
        of = [colors[i] for i in chosen] if isinstance(colors, list) else colors
        wide = [sizes[i] for i in chosen] if isinstance(sizes, list | tuple) else sizes
        area = (np.asarray(wide, dtype=np.float64) * _PIXEL) ** 2
        is_open = str(symbol).endswith("open")
        panel.scatter(
            [x[i] for i in chosen],
            [y[i] for i in chosen],
            s=area,
            marker=_MARKERS.get(str(symbol), "o"),
            facecolors="none" if is_open else of,
            edgecolors=of if is_open else "white",
            linewidths=1.5 if is_open else 0.5,
            alpha=marker["alpha"],
            label=label,
            zorder=3,
        )
        label = "_"


def _labels(panel: Axes, x: list[float], y: list[float], trace: dict[str, Any]) -> None:
    places = trace.get("textposition", "middle center")
    for i, text in enumerate(trace.get("text") or ()):
        vertical, horizontal = (places if isinstance(places, str) else places[i]).split()
        panel.annotate(
            _words(text),
            (x[i], y[i]),
            textcoords="offset points",
            xytext=(0, {"top": 6, "bottom": -6}.get(vertical, 0)),
            ha=_HORIZONTAL[horizontal],
            va=_VERTICAL[vertical],
            fontsize=8,
        )


def _annotate(panels: dict[str, Axes], note: dict[str, Any]) -> None:
    # Where nothing is said, plotly takes the first panel, in units of its axes.
    name, x, y = str(note.get("xref", "x")), float(note.get("x", 0.5)), note.get("y", 0.5)
    panel = panels.get(name.removesuffix(" domain").removeprefix("x"), next(iter(panels.values())))
    if name == "paper":
        # Panels lie beside each other: the one that is meant, and the place within it.
        place = min(int(x * len(panels)), len(panels) - 1)
        panel, x = list(panels.values())[place], x * len(panels) - place
        if y >= 1.0:
            panel.set_title(_words(note.get("text")), fontsize=10)
            return
    boxed = {"facecolor": _rgba(note.get("bgcolor")), "edgecolor": "none", "pad": 2}
    panel.annotate(
        _words(note.get("text")),
        (x, y),
        xycoords="axes fraction" if name == "paper" or name.endswith("domain") else "data",
        textcoords="offset points",
        xytext=(0, note.get("yshift", 0) * _PIXEL),
        ha=str(note.get("xanchor", "center")).replace("auto", "center"),
        va=_ANCHORS[note.get("yanchor", "middle")],
        fontsize=(note.get("font") or {}).get("size", 12) * _PIXEL,
        bbox=boxed if note.get("bgcolor") else None,
        # Long words must not squeeze the axes.
        in_layout=False,
        color=_rgba((note.get("font") or {}).get("color", "#333")),
        zorder=4,
    )


def _dress(panel: Axes, x: dict[str, Any], y: dict[str, Any]) -> None:
    for side in ("top", "right", "left", "bottom"):
        panel.spines[side].set_visible(False)
    panel.grid(color="#e8e8e8", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(length=0, labelsize=8, colors="#333")
    for label, axis in ((panel.set_xlabel, x), (panel.set_ylabel, y)):
        label(textwrap.fill(_words((axis.get("title") or {}).get("text")), 60), fontsize=9)


def _limit(panel: Axes, x: dict[str, Any], y: dict[str, Any]) -> None:
    """Ranges and ticks, after everything is drawn, which moves them."""
    for axis, options in (("x", x), ("y", y)):
        if options.get("type") == "log":
            panel.set(**{f"{axis}scale": "log"})
        if options.get("range") is not None:
            low, high = options["range"]
            if options.get("type") == "log":
                low, high = 10**low, 10**high
            panel.set(**{f"{axis}lim": (low, high)})
        elif options.get("rangemode") == "tozero":
            panel.set(**{f"{axis}lim": (min(0.0, getattr(panel, f"get_{axis}lim")()[0]), None)})
        if options.get("tickvals") is not None:
            ticks = list(options["tickvals"])
            texts = list(options.get("ticktext") or map(str, ticks))
            panel.set(**{f"{axis}ticks": ticks, f"{axis}ticklabels": map(_words, texts)})
        elif str(options.get("tickformat", "")).endswith("%"):
            part = panel.xaxis if axis == "x" else panel.yaxis
            part.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
        if options.get("visible") is False:
            (panel.xaxis if axis == "x" else panel.yaxis).set_visible(False)
            panel.grid(visible=False)


def _legend(picture: Figure, panels: list[Axes], layout: dict[str, Any]) -> None:
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles and layout.get("showlegend") is not False:
        picture.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=min(len(handles), 4),
            frameon=False,
            fontsize=8,
        )


def _points_of(trace: dict[str, Any]) -> tuple[list[float], list[float]]:
    y = _numbers(trace.get("y"))
    if trace.get("x") is None:
        first, apart = trace.get("x0", 0.0), trace.get("dx", 1.0)
        return [first + apart * i for i in range(len(y))], y
    return _numbers(trace["x"]), y


def _numbers(values: Any) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values or ()]


def _words(text: Any) -> str:
    """What plotly shows of a text: its line breaks, and none of its tags."""
    broken = re.sub(r"<br ?/?>", "\n", str(text or ""))
    plain = html.unescape(re.sub(r"</?(b|i|em|strong|sub|sup|span|a)\b[^>]*>", "", broken))
    return printable(plain)


def _rgba(color: Any) -> tuple[float, float, float, float]:
    """A colour of CSS as Matplotlib has it."""
    found = _RGB.fullmatch(str(color).strip())
    if found is None:
        return to_rgba(color if isinstance(color, str) else "#333")
    parts = [float(part) for part in found[1].split(",")]
    red, green, blue = (part / 255 for part in parts[:3])
    return red, green, blue, parts[3] if len(parts) > 3 else 1.0
