"""What did `benchmarks.engine` find, in the README's tables? From its results file alone.

python -m benchmarks.engine.table [RESULTS.json]
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from benchmarks.environment import RESULTS
from benchmarks.environment import results_file

# What the engine is to reach at least: times faster than the public way, by hidden size.
SPEED_TARGETS: dict[str, dict[int, float]] = {
    "LSTM hidden": {64: 11.0, 128: 15.0, 256: 22.0, 512: 22.0},
    "GRU": {256: 6.5, 512: 8.8},
    "RNN": {256: 3.0, 512: 4.0},
}


def speed_table(section: Any) -> str:
    """Ratios to the public way / to plain QR, a row an architecture."""
    found = {(row["architecture"], row["hidden_size"]): row for row in section["rows"]}
    names = dict.fromkeys(name for name, _ in found)
    sizes = sorted({size for _, size in found})
    lines = [["times faster than", *(f"H = {size}" for size in sizes)]]
    for name in names:
        cells = []
        for size in sizes:
            row = found.get((name, size))
            if row is None:
                cells.append("")
                continue
            target = SPEED_TARGETS.get(name, {}).get(size)
            wanted = f" (≥ {target:g})" if target else ""
            public, plain = row["public_over_ours"], row["plain_over_ours"]
            cells.append(f"**{public:.3g}**{wanted} / {plain:.2g}")
        lines.append([name, *cells])
    return _markdown(lines)


def other_table(data: Any) -> str:
    """What else was to be reached: wanted at least, aimed at, measured."""
    lines = [["", "at least", "aim", "measured"]]
    if "gemm_cost" in data:
        cost = {
            f"{row['architecture']} {row['hidden_size']}": f"{row['gemms_per_step']:.2f}"
            for row in data["gemm_cost"]["rows"]
        }
        lines.append(["a step, in matrix products", "3", "2", _listed(cost)])
    if "fingerprint" in data:
        for name, limit in (
            ("LSTM full", "6 %"),
            ("LSTM hidden", "5 %"),
            ("GRU", "5 %"),
            ("RNN", "5 %"),
        ):
            shares = {
                row["hidden_size"]: f"{100 * row['share_of_epoch']:.1f} %"
                for row in data["fingerprint"]["rows"]
                if row["architecture"] == name
            }
            lines.append(
                [f"fingerprint in epochs, {name}", f"≤ {limit}", "≤ 2 %", _listed(shares)]
            )
    if "many_models" in data:
        ratios = {
            f"{row['architecture']}, k = {row['k']}": f"{row['one_by_one_over_together']:.2g}×"
            for row in data["many_models"]["rows"]
        }
        lines.append(["64 models at once, H = 64", "2×", "", _listed(ratios)])
    if "accuracy" in data:
        lines += _accuracy_lines(data["accuracy"])
    if "memory" in data:
        grown = {
            f"T = {row['steps']}, k = {row['k']}": f"{row['growth_mib']:.0f} MiB"
            for row in data["memory"]["rows"]
        }
        lines.append(["memory, LSTM full, H = 128, B = 8", "O(B·k·N)", "", _listed(grown)])
    return _markdown(lines)


def _accuracy_lines(section: Any) -> list[list[str]]:
    narrow = {
        f"{row['architecture']} {row['hidden_size']}": f"{row['rms']:.0e}"
        for row in section["float32_frame"]["rows"]
    }
    worst: dict[str, float] = {}
    for row in section["saturated"]["rows"]:
        for name, error in row["max_error"].items():
            worst[name] = max(worst.get(name, 0.0), float(error))
    rules = {
        f"p = {row['p']:g}, H = {row['hidden_size']}": _residual(row)
        for row in section["sum_rule"]["rows"]
    }
    total = section["finiteness"]["total"]
    return [
        ["float32 frame, trained networks, rms", "1e-4", "", _listed(narrow)],
        [
            "gain-10 tanh RNN, worst exponent of 5 networks",
            "1e-3",
            "",
            _listed({name: f"{error:.0e}" for name, error in worst.items()}),
        ],
        ["LSTM sum rule, U(−p, p)", "1e-4", "", _listed(rules)],
        [
            "NaN in 1,000 random networks, gains 0.01–30",
            "0",
            "",
            f"{total['nan']} of {total['networks']}",
        ],
    ]


def _residual(row: Any) -> str:
    residual = float(row["residual"])
    untested = row["sum_of_exponents"] == "-inf" and residual == 0.0
    return "both −∞" if untested else f"{residual:.0e}"


def peers_table(section: Any) -> str:
    """Times that the others take of ours, a row a case."""
    names = [name for name, version in section["peers"].items() if version != "not installed"]
    lines = [["time over ours", *(f"{name} {section['peers'][name]}" for name in names)]]
    for row in section["rows"]:
        case = f"{row['architecture']}, H = {row['hidden_size']}, {row['dtype']}"
        lines.append([case, *(f"{row['over_ours'][name]:.2g}×" for name in names)])
    return _markdown(lines)


def _listed(values: dict[Any, str]) -> str:
    return "; ".join(f"{key}: {value}" for key, value in values.items())


def _markdown(lines: Iterable[list[str]]) -> str:
    head, *rows = lines
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *rows])


def main() -> None:
    """Print the tables of a results file."""
    path = results_file("python -m benchmarks.engine.table", __doc__, RESULTS / "engine.json")
    data = json.loads(path.read_text())
    if "speed" in data:
        print(speed_table(data["speed"]), end="\n\n")
    print(other_table(data))
    if data.get("peers", {}).get("rows"):
        print("\n" + peers_table(data["peers"]))


if __name__ == "__main__":
    main()
