"""Where does a random recurrent network turn chaotic?

λ₁ against the gain of the recurrent weights, for each architecture of the engine: networks
without inputs and biases, recurrent weights drawn from N(0, g²/H), the state left to itself. A
random tanh network turns chaotic at g = 1 (Sompolinsky, Crisanti and Sommers, Phys. Rev. Lett. 61,
1988); gates move the edge, oscillators and orthogonal matrices keep near it.

    python -m studies.edge_of_chaos --output edge_of_chaos.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm

from optuna_aelle.lyapunov import cells
from optuna_aelle.lyapunov import lyapunov_spectra
from studies.arguments import positive

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "RNN (tanh)": lambda size: nn.RNN(1, size),
    "GRU": lambda size: nn.GRU(1, size),
    "LSTM": lambda size: nn.LSTM(1, size),
    "antisymmetric RNN": lambda size: cells.AntisymmetricRNN(1, size),
    "gated antisymmetric RNN": lambda size: cells.AntisymmetricRNN(1, size, gated=True),
    "coRNN": lambda size: cells.CoRNN(1, size),
    "Lipschitz RNN": lambda size: cells.LipschitzRNN(1, size),
    "LEM": lambda size: cells.LEM(1, size),
    "exponential RNN": lambda size: cells.ExponentialRNN(1, size, nonlinearity="tanh"),
}
_LINE, _BAND = "#1e88e5", "#bbdefb"


def random_network(
    build: Callable[[int], nn.Module], size: int, gain: float, seed: int
) -> nn.Module:
    """Recurrent weights from N(0, gain² / H), all else zero."""
    generator = torch.Generator().manual_seed(seed)
    network = build(size)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("weight_hh", "weight_zy", "weight_linear")):
                parameter.normal_(0.0, gain / size**0.5, generator=generator)
            else:
                parameter.zero_()
    return network


def largest_exponents(
    build: Callable[[int], nn.Module],
    gains: Sequence[float],
    *,
    size: int,
    n_networks: int,
    n_steps: int,
    warmup: int,
) -> npt.NDArray[np.float64]:
    """λ₁ ``(len(gains), n_networks)`` in nats per step, all networks side by side."""
    networks = [random_network(build, size, gain, i) for gain in gains for i in range(n_networks)]
    shape = (1, size)
    start = 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    spectra = lyapunov_spectra(
        networks,
        torch.zeros(warmup + n_steps, 1, 1),
        k=1,
        warmup=warmup,
        initial_state=(start, start) if isinstance(networks[0], _TWO_PARTS) else start,
    )
    return np.reshape([s.max_exponent for s in spectra], (len(gains), n_networks))


_TWO_PARTS = (nn.LSTM, cells.CoRNN, cells.LEM)


def draw(
    exponents: dict[str, npt.NDArray[np.float64]], gains: Sequence[float], path: Path
) -> None:
    """One panel an architecture: median and range over networks, chaos above zero."""
    figure, axes = plt.subplots(3, 3, figsize=(10.5, 8.0), sharex=True)
    for axis, (name, values) in zip(axes.flat, exponents.items(), strict=True):
        _panel(axis, name, np.asarray(gains), values)
    for axis in axes[-1]:
        axis.set_xlabel("gain of the recurrent weights")
    for axis in axes[:, 0]:
        axis.set_ylabel("λ₁ (nats per step)")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _panel(
    axis: Axes, name: str, gains: npt.NDArray[np.float64], values: npt.NDArray[np.float64]
) -> None:
    axis.fill_between(gains, values.min(axis=1), values.max(axis=1), color=_BAND, lw=0)
    axis.plot(gains, np.median(values, axis=1), color=_LINE, lw=1.8)
    axis.set_xscale("log")
    low, high = axis.get_ylim()
    low, high = min(low, -0.01), max(high, 0.15 * (high - low), 0.01)
    axis.set_ylim(low, high)
    axis.axhspan(0.0, high, color="#fce4ec", zorder=0)
    axis.axhline(0.0, color="#d81b60", lw=0.9)
    axis.axvline(1.0, color="#9e9e9e", lw=0.8, ls=":")
    axis.set_title(name, fontsize=10.5)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute and draw."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.edge_of_chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("edge_of_chaos.png"))
    parser.add_argument("--hidden-size", type=positive, default=100)
    parser.add_argument("--networks", type=positive, default=5, help="random ones for each gain")
    parser.add_argument("--gains", type=positive, default=25, help="gains between 0.1 and 10")
    parser.add_argument(
        "--steps", type=positive, default=500, help="measured, after as many to settle"
    )
    options = parser.parse_args(arguments)
    gains = [float(gain) for gain in np.geomspace(0.1, 10.0, options.gains)]
    exponents = {}
    for name, build in tqdm(ARCHITECTURES.items(), desc="architectures"):
        exponents[name] = largest_exponents(
            build,
            gains,
            size=options.hidden_size,
            n_networks=options.networks,
            n_steps=options.steps,
            warmup=options.steps,
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    draw(exponents, gains, options.output)
    chaotic = np.median(exponents["RNN (tanh)"], axis=1) > 0.0
    first = int(np.argmax(chaotic))
    if first > 0:
        lower, upper = gains[first - 1], gains[first]
        print(f"The tanh RNN turns chaotic between gain {lower:.2f} and {upper:.2f}.")
    print(f"Drawn: {options.output}")


if __name__ == "__main__":
    main()
