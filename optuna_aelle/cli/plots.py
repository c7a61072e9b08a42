"""``optuna-aelle plots``: the figures of a study, as a page, as pictures, or in the dashboard."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_aelle.cli.arguments import add_source
from optuna_aelle.cli.outputs import check_folder
from optuna_aelle.cli.outputs import check_png
from optuna_aelle.cli.outputs import notes
from optuna_aelle.cli.outputs import printable
from optuna_aelle.cli.outputs import write_figure
from optuna_aelle.cli.outputs import write_page

if TYPE_CHECKING:
    import optuna
    import plotly.graph_objects as go

NAME = "plots"
HELP = "draw the figures of a study"
DESCRIPTION = (
    "Draw the figures of a study: into a folder, as one page that needs no network or as a PNG "
    "each; or into the study itself, where optuna-dashboard shows them."
)
EXAMPLES = """\
  optuna-aelle plots sqlite:///my.db --study-name NAME --output figures
  optuna-aelle plots my.npz --output figures --format png
  optuna-aelle plots sqlite:///my.db --dashboard
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Those of `plots`."""
    add_source(command)
    where = command.add_mutually_exclusive_group()
    where.add_argument(
        "--output",
        type=Path,
        default=Path("plots"),
        metavar="FOLDER",
        help="where to draw them; made if it is missing (default: %(default)s)",
    )
    where.add_argument(
        "--dashboard",
        action="store_true",
        help="save them in the study; nothing else here writes into a storage",
    )
    command.add_argument(
        "--format",
        choices=("html", "png"),
        default="html",
        help="one page, or a picture each (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Draw, and say where."""
    if not options.dashboard:
        check_folder("--output", options.output)
        if options.format == "png":
            check_png()
    from optuna_aelle.cli.sources import load_study
    from optuna_aelle.cli.sources import reading
    from optuna_aelle.visualization._panels import patiently

    with notes(), reading(options.source):
        study = load_study(options.source, options.study_name, to_write=options.dashboard)
        if options.dashboard:
            return _into_the_dashboard(study)
        drawn = {name: plot(study) for name, plot in patiently(figures().items(), "figures")}
    options.output.mkdir(parents=True, exist_ok=True)
    if options.format == "html":
        page = options.output / "index.html"
        write_page(page, list(drawn.values()), study.study_name)
        print(f"{len(drawn)} figures of {printable(study.study_name)}, one page: {page}")
        return 0
    for name, figure in drawn.items():
        write_figure(options.output / f"{name}.png", figure, study.study_name)
        print(f"Figure: {options.output / f'{name}.png'}")
    return 0


def figures() -> dict[str, Callable[[optuna.Study], go.Figure]]:
    """All that the dashboard shows of a study, by the name of its file."""
    from optuna_aelle.visualization import plot_latent_map
    from optuna_aelle.visualization._latent_map import draw_latent_map
    from optuna_aelle.visualization._panels import PANELS

    return {
        # Here somebody waits for UMAP, if it is installed.
        re.sub("^aelle-([0-9]+-)?", "", name): plot_latent_map if plot is draw_latent_map else plot
        for name, plot in PANELS.items()
    }


def _into_the_dashboard(study: optuna.Study) -> int:
    from optuna_aelle.visualization import save_dashboard_plots

    try:
        saved = save_dashboard_plots(study)
    except ImportError as error:
        raise ValueError(str(error)) from error
    print(
        f"{len(saved)} figures are in the study {printable(study.study_name)}: {', '.join(saved)}"
    )
    print("To see them: optuna-dashboard STORAGE")
    return 0
